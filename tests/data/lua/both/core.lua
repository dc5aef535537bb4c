-- What all the other modules lean on: keys, switches, kernels, boot environments.
local config = require("config")
local hook = require("hook")
local generation = require("generation")

local core = {
	KEY_BACKSPACE = 8, KEY_ENTER = 13, KEY_DELETE = 127,
	KEYSTR_ESCAPE = "\027", KEYSTR_CSI = "\027[", KEYSTR_RESET = "\027c",
	MENU_RETURN = "return", MENU_ENTRY = "entry", MENU_SEPARATOR = "separator",
	MENU_SUBMENU = "submenu", MENU_CAROUSEL_ENTRY = "carousel_entry",
	TIMEOUT_ROW = generation.timeout_row,
	PATIENCE = 1000,
}
local list = "bootenvs"
local defaults = {}

function try_include(name)
	if name:sub(1, 1) ~= "/" then
		name = loader.lua_path .. "/" .. name
		if not name:match("%.lua$") then
			name = name .. ".lua"
		end
	end
	if lfs.attributes(name, "mode") ~= "file" then
		return
	end
	return dofile(name)
end

local function toggle(field, apply)
	return function(value)
		if value == nil then
			value = not core[field]
		end
		apply(value)
		core[field] = value
	end
end

local function flag(name)
	return function(on)
		if on then
			loader.setenv(name, "YES")
		else
			loader.unsetenv(name)
		end
	end
end

core.setVerbose = toggle("verbose", flag("boot_verbose"))
core.setSingleUser = toggle("single", flag("boot_single"))

local SAFE = {
	["kern.smp.disabled"] = "1", ["hw.ata.ata_dma"] = "0", ["hw.ata.wc"] = "0", ["kern.eventtimer.periodic"] = "1",
}
core.setSafeMode = toggle("safe", function(on)
	for name, value in pairs(SAFE) do
		if on then
			loader.setenv(name, value)
		else
			loader.unsetenv(name)
		end
	end
end)

core.setACPI = toggle("acpi", function(on)
	if on then
		config.enableModule("acpi")
		loader.setenv("hint.acpi.0.disabled", "0")
	else
		config.disableModule("acpi")
		loader.setenv("hint.acpi.0.disabled", "1")
	end
end)

function core.hasFeature(name)
	if not loader.has_feature then
		return nil, "No feature support in loaded loader"
	end
	return loader.has_feature(name)
end

function core.hasACPI()
	if not generation.modern then
		return loader.machine_arch == "i386" and loader.getenv("hint.acpi.0.rsdp") ~= nil
	end
	return loader.getenv("acpi.rsdp") ~= nil or not core.hasFeature("EARLY_ACPI")
end

function core.kernelList()
	if core.kernels then
		return core.kernels
	end
	local found, seen = {}, {}
	local function add(name)
		if name and not seen[name] then
			seen[name] = true
			found[#found + 1] = name
		end
	end
	add(loader.getenv("kernel"))
	for name in (loader.getenv("kernels") or ""):gmatch("([^;, ]+)[;, ]?") do
		add(name)
	end
	if (loader.getenv("kernels_autodetect") or ""):lower() == "yes" and lfs.attributes("/boot", "mode") then
		for name, kind in lfs.dir("/boot") do
			local path = "/boot/" .. name
			if name == "." or name == ".." then
				goto next
			end
			if kind then
				if kind ~= lfs.DT_DIR and kind ~= (lfs.DT_LNK or -1) then
					goto next
				end
			elseif lfs.attributes(path, "mode") ~= "directory" then
				goto next
			end
			if lfs.attributes(path .. "/kernel", "mode") == "file" then
				add(name)
			end
			::next::
		end
	end
	core.kernels = found
	return found
end

function core.bootenvDefault() return loader.getenv("zfs_be_active") end
function core.isRewinded() return list == "bootenvs_check" end

function core.bootenvList()
	local count = tonumber(loader.getenv(list .. "_count"))
	local names, seen = {}, {}
	if count == nil or count <= 0 then
		return names
	end
	local function add(name)
		if name ~= nil and not seen[name] then
			seen[name] = true
			names[#names + 1] = name
		end
	end
	add(core.bootenvDefault())
	for index = 0, count - 1 do
		add(loader.getenv(list .. "[" .. index .. "]"))
	end
	return names
end

function core.setDefaults()
	core.setACPI(defaults.acpi)
	core.setSafeMode(false)
	core.setSingleUser(defaults.single)
	core.setVerbose(defaults.verbose)
end

local function start(command, flags)
	if loader.getenv("kernelname") == nil then
		config.loadelf()
	end
	core.loadEntropy()
	return loader.perform(flags and command .. " " .. flags or command)
end
function core.boot(flags) return start("boot", flags) end
function core.autoboot(flags) return start("autoboot", flags) end

function core.loadEntropy()
	if loader.getenv("efi-version") and (loader.getenv("entropy_efi_seed") or "no"):lower() == "yes" then
		loader.perform("efi-seed-entropy")
	end
end

function core.isSingleUserBoot()
	local value = loader.getenv("boot_single")
	return value ~= nil and value:lower() == "yes"
end

function core.isZFSBoot()
	local device = loader.getenv("currdev")
	return device ~= nil and device:match("^zfs:") ~= nil
end

local function consoleHas(word)
	local console = loader.getenv("console")
	return console ~= nil and console:find(word) ~= nil
end
function core.isSerialConsole() return consoleHas("comconsole") or consoleHas("userboot") end
function core.isFramebufferConsole()
	return (consoleHas("efi") or consoleHas("vidconsole")) and loader.getenv("screen.depth") ~= nil
end
function core.isSerialBoot()
	return loader.getenv("boot_serial") ~= nil or loader.getenv("boot_multicons") ~= nil
end
function core.isMenuSkipped()
	return string.lower(loader.getenv("beastie_disable") or "") == "yes"
end

function core.getConsoleName()
	local serial = loader.getenv("boot_serial") ~= nil
	if loader.getenv("boot_multicons") ~= nil then
		return serial and "Dual (Serial primary)" or "Dual (Video primary)"
	end
	return serial and "Serial" or "Video"
end

function core.nextConsoleChoice()
	local serial, both = loader.getenv("boot_serial") ~= nil, loader.getenv("boot_multicons") ~= nil
	if serial then
		loader.unsetenv("boot_serial")
	elseif both then
		loader.unsetenv("boot_multicons")
		loader.setenv("boot_serial", "YES")
	else
		loader.setenv("boot_multicons", "YES")
		loader.setenv("boot_serial", "YES")
	end
end

function core.popFrontTable(items)
	local rest = {}
	for index, item in ipairs(items) do
		if index > 1 then
			rest[index - 1] = item
		end
	end
	return items[1], rest
end

local function record()
	local single = loader.getenv("boot_single") or "no"
	local verbose = loader.getenv("boot_verbose") or "no"
	defaults.single = single:lower() ~= "no"
	defaults.verbose = verbose:lower() ~= "no"
	defaults.acpi = core.hasACPI()
	if defaults.acpi then
		core.setACPI(true)
	end
	core.setSingleUser(defaults.single)
	core.setVerbose(defaults.verbose)
end

record()
hook.register("config.loaded", function() core.kernels = nil end)
hook.register("config.reloaded", function() core.kernels = nil end)
return core
