-- The first script: configuration, then the menu or straight on.
require("cli")
local color = require("color")
local core = require("core")
local config = require("config")
local password = require("password")

config.load()
if loader.getenv("efi-version") then
	loader.perform("efi-autoresizecons")
end
if color.isEnabled() then
	printc(core.KEYSTR_RESET)
end
try_include("local")
password.check()
if core.isMenuSkipped() then
	config.loadelf()
	core.loadEntropy()
else
	require("menu").run()
end
