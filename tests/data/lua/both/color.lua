-- Escape sequences for colours; nothing at all where the console is serial or colours are unwanted.
local core = require("core")

local color = {
	BLACK = 0, RED = 1, GREEN = 2, YELLOW = 3, BLUE = 4, MAGENTA = 5, CYAN = 6, WHITE = 7,
}

function color.isEnabled()
	local wish = loader.getenv("loader_color")
	if wish and (wish:lower() == "no" or wish == "0") then
		return false
	end
	return not core.isSerialBoot()
end

color.disabled = not color.isEnabled()

local function sequence(text)
	return color.disabled and "" or core.KEYSTR_CSI .. text .. "m"
end

function color.escapefg(number) return sequence("3" .. number) end
function color.escapebg(number) return sequence("4" .. number) end
function color.resetfg() return sequence("39") end
function color.default() return sequence("39;49") end

function color.highlight(text)
	if color.disabled then
		return text
	end
	return sequence("1") .. text .. sequence("22")
end

return color
