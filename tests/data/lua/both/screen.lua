-- The cursor and the whole screen.
local color = require("color")
local core = require("core")

local screen = {default_x = 0, default_y = 25}

function screen.clear()
	printc(core.KEYSTR_CSI .. "H" .. core.KEYSTR_CSI .. "J")
end

function screen.setcursor(x, y)
	printc(core.KEYSTR_CSI .. y .. ";" .. x .. "H")
end

function screen.setforeground(number)
	if not color.disabled then
		printc(color.escapefg(number))
	end
end

function screen.defcolor()
	printc(color.default())
end

function screen.defcursor()
	screen.setcursor(screen.default_x, screen.default_y)
end

return screen
