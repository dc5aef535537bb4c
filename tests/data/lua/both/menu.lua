-- The menu: a tree of entries, the keys that choose among them, and the countdown.
local cli = require("cli")
local core = require("core")
local color = require("color")
local config = require("config")
local screen = require("screen")
local drawer = require("drawer")

local menu = {keys = {}}
local shown

local function onOff(text, value)
	local word = value and color.escapefg(color.GREEN) .. "On" or color.escapefg(color.RED) .. "off"
	return text .. word .. color.resetfg()
end

local function useEnvironment(name)
	loader.setenv("vfs.root.mountfrom", name)
	loader.setenv("currdev", name .. ":")
	config.reload()
	if loader.getenv("kernelname") then
		loader.perform("unload")
	end
end

local back = {
	entry_type = core.MENU_RETURN,
	name = "Back to main menu" .. color.highlight(" [Backspace]"),
}

local function chosen(name, index, choices)
	local tint = index == 1 and color.GREEN or color.BLUE
	return color.escapefg(tint) .. name .. color.resetfg() .. " (" .. index .. " of " .. #choices .. ")"
end

menu.environments = {entries = {
	back,
	{
		entry_type = core.MENU_CAROUSEL_ENTRY,
		carousel_id = "be_active",
		items = core.bootenvList,
		name = function(index, name, choices)
			if #choices == 0 then
				return "Active: "
			end
			return color.highlight("A") .. "ctive: " .. chosen(name, index, choices)
		end,
		func = function(_, name) useEnvironment(name) end,
		alias = {"a", "A"},
	},
	{
		entry_type = core.MENU_ENTRY,
		visible = function() return core.isRewinded() == false end,
		name = function() return color.highlight("b") .. "ootfs: " .. core.bootenvDefault() end,
		func = function()
			config.setCarouselIndex("be_active", 1)
			useEnvironment(core.bootenvDefault())
		end,
		alias = {"b", "B"},
	},
}}

menu.options = {entries = {
	back,
	{
		entry_type = core.MENU_ENTRY,
		name = "Load System " .. color.highlight("D") .. "efaults",
		func = core.setDefaults,
		alias = {"d", "D"},
	},
	{entry_type = core.MENU_SEPARATOR},
	{entry_type = core.MENU_SEPARATOR, name = "Boot Options:"},
	{
		entry_type = core.MENU_ENTRY,
		visible = core.hasACPI,
		name = function() return onOff(color.highlight("A") .. "CPI       :", core.acpi) end,
		func = core.setACPI,
		alias = {"a", "A"},
	},
	{
		entry_type = core.MENU_ENTRY,
		name = function() return onOff("Safe " .. color.highlight("M") .. "ode  :", core.safe) end,
		func = core.setSafeMode,
		alias = {"m", "M"},
	},
	{
		entry_type = core.MENU_ENTRY,
		name = function() return onOff(color.highlight("S") .. "ingle user:", core.single) end,
		func = core.setSingleUser,
		alias = {"s", "S"},
	},
	{
		entry_type = core.MENU_ENTRY,
		name = function() return onOff(color.highlight("V") .. "erbose    :", core.verbose) end,
		func = core.setVerbose,
		alias = {"v", "V"},
	},
}}

local multi = {
	entry_type = core.MENU_ENTRY,
	name = function()
		return color.highlight("B") .. "oot Multi user" .. (core.isSingleUserBoot() and "" or color.highlight(" [Enter]"))
	end,
	func = function()
		core.setSingleUser(false)
		core.boot()
	end,
	alias = {"b", "B"},
}
local single = {
	entry_type = core.MENU_ENTRY,
	name = function()
		return "Boot " .. color.highlight("S") .. "ingle user" .. (core.isSingleUserBoot() and color.highlight(" [Enter]") or "")
	end,
	func = function()
		core.setSingleUser(true)
		core.boot()
	end,
	alias = {"s", "S"},
}

menu.main = {entries = function()
	local first, second = multi, single
	if core.isSingleUserBoot() then
		first, second = single, multi
	end
	return {
		first,
		second,
		{
			entry_type = core.MENU_RETURN,
			name = color.highlight("Esc") .. "ape to loader prompt",
			func = function() loader.setenv("autoboot_delay", "NO") end,
			alias = {core.KEYSTR_ESCAPE},
		},
		{
			entry_type = core.MENU_ENTRY,
			name = color.highlight("R") .. "eboot",
			func = function() loader.perform("reboot") end,
			alias = {"r", "R"},
		},
		{
			entry_type = core.MENU_ENTRY,
			name = function() return color.highlight("C") .. "ons: " .. core.getConsoleName() end,
			func = core.nextConsoleChoice,
			alias = {"c", "C"},
		},
		{entry_type = core.MENU_SEPARATOR},
		{entry_type = core.MENU_SEPARATOR, name = "Options:"},
		{
			entry_type = core.MENU_CAROUSEL_ENTRY,
			carousel_id = "kernel",
			items = core.kernelList,
			name = function(index, name, choices)
				if #choices == 0 then
					return "Kernel: "
				end
				local default = index == 1 and "default/" or ""
				return color.highlight("K") .. "ernel: " .. default .. chosen(name, index, choices)
			end,
			func = function(_, name)
				if loader.getenv("kernelname") ~= nil then
					loader.perform("unload")
				end
				config.selectKernel(name)
			end,
			alias = {"k", "K"},
		},
		{
			entry_type = core.MENU_SUBMENU,
			name = "Boot " .. color.highlight("O") .. "ptions",
			submenu = menu.options,
			alias = {"o", "O"},
		},
		{
			entry_type = core.MENU_SUBMENU,
			visible = function() return core.isZFSBoot() and #core.bootenvList() > 1 end,
			name = "Boot " .. color.highlight("E") .. "nvironments",
			submenu = menu.environments,
			alias = {"e", "E"},
		},
		{
			entry_type = core.MENU_ENTRY,
			visible = function() return loader.getenv("chain_disk") ~= nil end,
			name = function() return "Chain" .. color.highlight("L") .. "oad " .. loader.getenv("chain_disk") end,
			func = function() loader.perform("chain " .. loader.getenv("chain_disk")) end,
			alias = {"l", "L"},
		},
	}
end}

function menu.draw(which)
	screen.clear()
	menu.keys = drawer.drawscreen(which)
	shown = which
	screen.defcursor()
end

local act = {
	[core.MENU_ENTRY] = function(entry) entry.func() end,
	[core.MENU_CAROUSEL_ENTRY] = function(entry)
		local choices = entry.items
		if type(choices) == "function" then
			choices = choices()
		end
		if #choices > 0 then
			local index = config.getCarouselIndex(entry.carousel_id) % #choices + 1
			config.setCarouselIndex(entry.carousel_id, index)
			entry.func(index, choices[index], choices)
		end
	end,
	[core.MENU_SUBMENU] = function(entry) menu.process(entry.submenu) end,
	[core.MENU_RETURN] = function(entry)
		if entry.func then
			entry.func()
		end
		return false
	end,
}

function menu.process(which, key)
	assert(which ~= nil)
	if shown ~= which then
		menu.draw(which)
	end
	while true do
		key = key or io.getchar()
		if (key == core.KEY_BACKSPACE or key == core.KEY_DELETE) and which ~= menu.main then
			return
		elseif key == core.KEY_ENTER then
			core.boot()
			return false
		end
		local entry = menu.keys[string.char(key)]
		key = nil
		if entry then
			if act[entry.entry_type](entry) == false then
				return
			end
			menu.draw(which)
		end
	end
end

function menu.autoboot(delay)
	local x = loader.getenv("loader_menu_timeout_x") or 4
	local y = loader.getenv("loader_menu_timeout_y") or core.TIMEOUT_ROW
	local finish, last = loader.time() + delay, nil
	local wanted = (loader.getenv("loader_autoboot_show") or "yes"):lower() == "yes"
	repeat
		local left = finish - loader.time()
		if wanted and left ~= last then
			last = left
			screen.setcursor(x, y)
			print("Autoboot in " .. left .. " seconds. [Space] to pause ")
			screen.defcursor()
		end
		if io.ischar() then
			local key = io.getchar()
			if key == core.KEY_ENTER then
				break
			end
			screen.setcursor(0, y)
			print(string.rep(" ", 80))
			screen.defcursor()
			return key
		end
		loader.delay(50000)
	until left <= 0
	cli_execute_unparsed(loader.getenv("menu_timeout_command") or "boot")
	return nil
end

function menu.run()
	local delay = loader.getenv("autoboot_delay")
	if delay ~= nil and delay:lower() == "no" then
		delay = nil
	else
		delay = tonumber(delay) or 10
	end
	if delay == -1 then
		core.boot()
		return
	end
	menu.draw(menu.main)
	local key
	if delay ~= nil then
		key = menu.autoboot(delay)
		if key == nil then
			return
		end
	end
	menu.process(menu.main, key)
	shown = nil
	screen.defcursor()
	print("Exiting menu!")
end

function cli.menu()
	menu.run()
end

return menu
