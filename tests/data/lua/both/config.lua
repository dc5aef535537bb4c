-- loader.conf(5): its files, its lines, the kernel and the modules it asks for.
local hook = require("hook")
local generation = require("generation")

local config = {verbose = false}
local modules, choices = {}, {}
local changed, before = {}, {}
local LOCAL = {loader_conf_files = true, loader_conf_dirs = true, local_loader_conf_files = true}
local MODULE = generation.modern and "([%w%d-_.]+)" or "([-%w_]+)"
local QUOTED = generation.modern and '"([^"]*)"' or '"(.*)"'
local BARE = "([-%w%d][-%w%d_.]*)"

local function getEnv(name)
	if LOCAL[name] or changed[name] ~= nil then
		return changed[name]
	end
	return loader.getenv(name)
end

local function setEnv(name, value)
	changed[name] = value
	if LOCAL[name] then
		return 0
	end
	if before[name] == nil then
		before[name] = {value = loader.getenv(name)}
	end
	return loader.setenv(name, value)
end

local function restore()
	for name, value in pairs(changed) do
		local old = before[name]
		if old == nil or loader.getenv(name) ~= value then
			goto next
		end
		if old.value ~= nil then
			loader.setenv(name, old.value)
		else
			loader.unsetenv(name)
		end
		::next::
	end
	changed, before = {}, {}
end

local function expand(text)
	local out, at = "", 1
	while at <= #text do
		local c = text:sub(at, at)
		if c == "\\" then
			if at == #text then
				return nil, "Stray escape at end of line"
			end
			out = out .. text:sub(at + 1, at + 1)
			at = at + 2
		elseif c == '"' then
			return nil, ("Stray quote at position '%d'"):format(at)
		elseif c == "$" then
			if at == #text then
				return nil, "Unescaped $ at end of line"
			end
			local pattern, start = "^([%w][-%w%d_.]*)", at + 1
			local braces = text:sub(at + 1, at + 1) == "{"
			if braces then
				pattern, start = "^([^}]+)}", at + 2
			end
			local name = text:match(pattern, start)
			if not name then
				return nil, ("Malformed variable expression at position '%d'"):format(at)
			end
			out = out .. (loader.getenv(name) or "")
			at = start + #name + (braces and 1 or 0)
		else
			out = out .. c
			at = at + 1
		end
	end
	return out
end

local function module(name)
	modules[name] = modules[name] or {}
	return modules[name]
end

local function export(name, suffix, value)
	if generation.modern then
		setEnv(name .. "_" .. suffix, value)
	end
end

local rules = {{pattern = "(#.*)", groups = 1, run = function() end}}
for _, suffix in ipairs({"load", "name", "type", "flags", "before", "after", "error"}) do
	rules[#rules + 1] = {
		pattern = MODULE .. "_" .. suffix .. "%s*=%s*$VALUE",
		run = function(name, value)
			module(name)[suffix] = suffix == "load" and value:upper() or value
			export(name, suffix, value)
		end,
	}
end
rules[#rules + 1] = {
	pattern = "exec%s*=%s*" .. QUOTED,
	groups = 1,
	run = function(line)
		if cli_execute_unparsed(line) ~= 0 then
			print(("Failed to exec '%s'"):format(line))
		end
	end,
}
rules[#rules + 1] = {
	pattern = "([%w][%w%d-_.]*)%s*=%s*$VALUE",
	run = function(name, value)
		local text, reason = expand(value)
		if not text then
			print(("Failed to parse variable '%s': %s"):format(name, reason))
		elseif setEnv(name, text) ~= 0 then
			print(("Failed to '%s' with value: %s"):format(name, value))
		end
	end,
}

local function match(line, rule)
	local pattern = "^%s*" .. rule.pattern .. "%s*(.*)"
	if not pattern:find("$VALUE", 1, true) then
		return line:match(pattern)
	end
	for _, value in ipairs({QUOTED, BARE}) do
		local a, b, c = line:match((pattern:gsub("$VALUE", (value:gsub("%%", "%%%%")))))
		if a ~= nil then
			return a, b, c
		end
	end
end

local function blank(rest)
	return rest == nil or rest:match("^%s*#.*") ~= nil or rest:match("^%s*$") ~= nil
end

function config.parse(text)
	local good, number = true, 1
	for line in text:gmatch("([^\n]+)") do
		if line:match("^%s*$") == nil then
			for _, rule in ipairs(rules) do
				local a, b, c = match(line, rule)
				if a ~= nil then
					if rule.groups == 1 then
						b, c = nil, b
					end
					if blank(c) then
						rule.run(a, b)
						goto done
					end
					break
				end
			end
			print(("Malformed line (%d):\n\t'%s'"):format(number, line))
			good = false
		end
		::done::
		number = number + 1
	end
	return good
end

local function readFile(name, silent)
	local file = io.open(name)
	if file == nil then
		if not silent then
			print(("Failed to open config: '%s'"):format(name))
		end
		return nil
	end
	local text, _ = io.read(file)
	io.close(file)
	return text
end

local function runLua(name, text)
	local environment = setmetatable({}, {__index = function(_, key) return loader.getenv(key) end})
	hook.runAll("config.buildenv")
	local chunk, message = load(text, name, "t", environment)
	local good = chunk ~= nil
	if chunk then
		good, message = pcall(chunk)
	end
	if not good then
		print(("Failed to run config: %s"):format(message))
		return false
	end
	for key, value in pairs(environment) do
		local kind = type(value)
		if kind == "string" or kind == "number" or kind == "boolean" then
			setEnv(key, tostring(value))
		end
	end
	return true
end

function config.processFile(name, silent)
	local text = readFile(name, silent)
	if text == nil then
		return silent or false
	end
	if generation.modern and name:match("%.lua$") then
		return runLua(name, text)
	end
	return config.parse(text)
end

function config.readConf(name, seen)
	seen = seen or {}
	if seen[name] then
		return
	end
	local top = next(seen) == nil
	print("Loading " .. name)
	changed.loader_conf_files = nil
	if not config.processFile(name, true) then
		print(("Failed to parse config: '%s'"):format(name))
	end
	seen[name] = true
	for more in (getEnv("loader_conf_files") or ""):gmatch("[%w%p]+") do
		config.readConf(more, seen)
	end
	if not top then
		return
	end
	for folder in (getEnv("loader_conf_dirs") or ""):gmatch("[%w%p]+") do
		if lfs.attributes(folder, "mode") ~= "directory" then
			print(("Failed to load conf dir '%s': not a directory"):format(folder))
		else
			for file in lfs.dir(folder) do
				if file:match(".conf$") then
					config.readConf(folder .. "/" .. file, seen)
				end
			end
		end
	end
	for more in (getEnv("local_loader_conf_files") or ""):gmatch("[%w%p]+") do
		config.readConf(more, seen)
	end
end

local function nextboot()
	local name = loader.getenv("nextboot_conf")
	local enabled = loader.getenv("nextboot_enable")
	if name == nil or enabled == "NO" then
		return
	end
	local text = readFile(name, true)
	if text == nil or (enabled == nil and text:match("^nextboot_enable=\"NO\"") ~= nil) then
		return
	end
	if not config.parse(text) then
		print(("Failed to parse config: '%s'"):format(name))
	end
	local file = io.open(name, "w")
	if file ~= nil then
		io.write(file, "nextboot_enable=\"NO\" ")
		io.close(file)
	end
	loader.setenv("nextboot_enable", "NO")
end

function config.load(name, reloading)
	config.readConf(name or "/boot/defaults/loader.conf")
	nextboot()
	config.verbose = (loader.getenv("verbose_loading") or "no"):lower() == "yes"
	if not reloading then
		hook.runAll("config.loaded")
	end
end

function config.reload(name)
	modules = {}
	restore()
	config.load(name, true)
	hook.runAll("config.reloaded")
end

local function try(kernels, flags)
	for kernel in kernels:gmatch("([^;]+)") do
		if loader.perform("load " .. kernel .. " " .. flags) == 0 then
			return kernel
		end
	end
end

function config.loadKernel(kernel)
	local flags = loader.getenv("kernel_options") or ""
	kernel = kernel or loader.getenv("kernel")
	local names = loader.getenv("bootfile")
	names = names and names .. ";kernel" or "kernel"
	if kernel == nil then
		if try(names, flags) then
			return true
		end
		print("No kernel set, failed to load from module_path")
		return false
	end
	local path = loader.getenv("module_path") or ""
	local old = loader.getenv("kernel_path")
	if old then
		path = path:gsub(old:gsub("(%p)", "%%%1") .. ";", "", 1)
	end
	for _, folder in ipairs({"/boot/" .. kernel, kernel}) do
		loader.setenv("module_path", folder)
		if try(names, flags) then
			loader.setenv("module_path", path == "" and folder or folder .. ";" .. path)
			loader.setenv("kernel_path", folder)
			return true
		end
	end
	loader.setenv("module_path", path)
	if try(kernel, flags) then
		return true
	end
	print(("Failed to load kernel '%s'"):format(kernel))
	return false
end

function config.selectKernel(kernel) config.selected = kernel end

local function blacklist()
	local names = {}
	for name in (loader.getenv("module_blacklist") or ""):gmatch("[;, ]?([-%w_]+)[;, ]?") do
		names[name] = true
	end
	return names
end

local function loadModules()
	local status, refused = true, blacklist()
	for key, settings in pairs(modules) do
		local name = settings.name or key
		if (settings.load or ""):lower() ~= "yes" then
			goto next
		end
		if refused[name] and not settings.force then
			if config.verbose then
				print(("Not loading blacklisted module '%s'"):format(name))
			end
			goto next
		end
		if config.verbose then
			loader.printc(name .. "...")
		end
		if settings.before and cli_execute_unparsed(settings.before) ~= 0 then
			status = false
		end
		local line = "load "
		if settings.type then
			line = line .. "-t " .. settings.type .. " "
		end
		line = line .. name
		if settings.flags then
			line = line .. " " .. settings.flags
		end
		if cli_execute_unparsed(line) ~= 0 then
			print(loader.command_error())
			if config.verbose then
				print("failed!")
			end
			if settings.error then
				cli_execute_unparsed(settings.error)
			end
			status = false
		else
			if settings.after and cli_execute_unparsed(settings.after) ~= 0 then
				status = false
			end
			if config.verbose then
				print("ok")
			end
		end
		::next::
	end
	return status
end

function config.loadelf()
	print("Loading kernel...")
	local loaded = config.loadKernel(config.selected)
	if not loaded then
		return false
	end
	hook.runAll("kernel.loaded")
	print("Loading configured modules...")
	local status = loadModules()
	hook.runAll("modules.loaded")
	return status
end

function config.enableModule(name)
	local settings = module(name)
	settings.load, settings.force = "YES", true
	export(name, "load", "YES")
end

function config.disableModule(name)
	module(name).load = "NO"
	export(name, "load", "NO")
end

function config.isModuleEnabled(name)
	return (module(name).load or ""):lower() == "yes"
end

function config.getModuleInfo()
	local lines = {}
	for name, settings in pairs(modules) do
		for _, key in ipairs({"load", "name", "type", "flags", "before", "after", "error"}) do
			if settings[key] then
				lines[#lines + 1] = name .. "_" .. key .. "=" .. settings[key]
			end
		end
	end
	return lines
end

function config.getCarouselIndex(id) return choices[id] or 1 end
function config.setCarouselIndex(id, index) choices[id] = index end

hook.registerType("config.buildenv")
hook.registerType("config.loaded")
hook.registerType("config.reloaded")
hook.registerType("kernel.loaded")
hook.registerType("modules.loaded")
return config
