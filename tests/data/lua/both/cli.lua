-- Typed commands that scripts take over before the loader's own see them.
local config = require("config")
local core = require("core")

local cli = {}

local function split(words, named)
	local kernel, flags = nil, ""
	for _, word in ipairs(words) do
		if named and word:sub(1, 1) ~= "-" then
			kernel = word
		else
			flags = flags .. " " .. word
		end
	end
	return kernel, flags
end

local function choose(kernel)
	if kernel then
		loader.perform("unload")
		config.selectKernel(kernel)
	end
end

function cli_execute(...)
	local words = {...}
	if #words == 0 then
		return loader.command(...)
	end
	local mine = cli[words[1]]
	if type(mine) == "function" then
		return mine(...)
	end
	return loader.command(...)
end

function cli_execute_unparsed(line)
	return cli_execute(loader.parse(line))
end

function cli.arguments(...)
	return core.popFrontTable({...})
end

function cli.boot(...)
	local _, words = cli.arguments(...)
	local kernel, flags = split(words, true)
	choose(kernel)
	core.boot(flags)
end

function cli.autoboot(...)
	local _, words = cli.arguments(...)
	local _, flags = split(words, false)
	core.autoboot(flags)
end

cli["boot-conf"] = function(...)
	local _, words = cli.arguments(...)
	local kernel, flags = split(words, true)
	choose(kernel)
	core.autoboot(flags)
end

cli["read-conf"] = function(...)
	local _, words = cli.arguments(...)
	config.readConf(assert(words[1]))
end

cli["reload-conf"] = function()
	config.reload()
end

local function switch(change)
	return function(...)
		local _, words = cli.arguments(...)
		if #words == 0 then
			print("usage error")
			return 1
		end
		for _, name in ipairs(words) do
			change(name)
		end
	end
end
cli["enable-module"] = switch(function(name) config.enableModule(name) end)
cli["disable-module"] = switch(function(name) config.disableModule(name) end)
cli["toggle-module"] = switch(function(name)
	if config.isModuleEnabled(name) then
		config.disableModule(name)
	else
		config.enableModule(name)
	end
end)
cli["disable-device"] = function(...)
	local _, words = cli.arguments(...)
	local name, unit = (words[1] or ""):match("^(%a+)(%d+)$")
	if not name then
		print("usage error: disable-device device")
		return 1
	end
	return loader.setenv("hint." .. name .. "." .. unit .. ".disabled", "1")
end

cli["show-module-options"] = function()
	local lines = config.getModuleInfo()
	pager.open()
	for _, line in ipairs(lines) do
		if pager.output(line .. "\n") then
			break
		end
	end
	pager.close()
end

return cli
