-- What the menu looks like: brand, logo, frame, entries.
local color = require("color")
local config = require("config")
local core = require("core")
local screen = require("screen")

local drawer = {}
local nothing = {""}

drawer.position = {brand = {x = 2, y = 1}, logo = {x = 46, y = 4}, menu = {x = 5, y = 10}}
drawer.frame = {w = 42, h = 13}
drawer.brands = {
	own = {graphic = {
		[[  _  _  |\ | ]],
		[[ |_||_| | \| ]],
	}},
	none = {graphic = nothing},
}
drawer.logos = {none = {graphic = nothing, shift = {x = 17, y = 0}}}
drawer.frames = {
	ascii = {"-", "|", "+", "+", "+", "+"},
	single = {"\xC4", "\xB3", "\xDA", "\xC0", "\xBF", "\xD9"},
	double = {"\xCD", "\xBA", "\xC9", "\xC8", "\xBB", "\xBC"},
	unicode = {"\xE2\x94\x80", "\xE2\x94\x82", "\xE2\x94\x8C", "\xE2\x94\x94", "\xE2\x94\x90", "\xE2\x94\x98"},
}

if not gfx then
	gfx = {term_drawrect = loader.term_drawrect, term_putimage = loader.term_putimage}
end

function drawer.addBrand(name, definition) drawer.brands[name] = definition end
function drawer.addLogo(name, definition) drawer.logos[name] = definition end

local function lookup(known, kind, name)
	if not name then
		return nil
	end
	if not known[name] then
		local definition = try_include("gfx-" .. name)
		if type(definition) == "table" then
			known[name] = definition
		end
	end
	return known[name]
end

local function place(kind)
	local at = drawer.position[kind]
	local x = tonumber(loader.getenv("loader_" .. kind .. "_x")) or at.x
	local y = tonumber(loader.getenv("loader_" .. kind .. "_y")) or at.y
	return x, y
end

local function lines(x, y, graphic)
	for i = 1, #graphic do
		screen.setcursor(x, y + i - 1)
		printc(graphic[i])
	end
end

function drawer.label(entry)
	if entry.entry_type == core.MENU_CAROUSEL_ENTRY then
		local choices = entry.items
		if type(choices) == "function" then
			choices = choices()
		end
		local index = config.getCarouselIndex(entry.carousel_id)
		if #choices < index then
			index = 1
		end
		return entry.name(index, choices[index], choices)
	end
	if type(entry.name) == "function" then
		return entry.name()
	end
	return entry.name or ""
end

local function box(shift)
	local style = loader.getenv("loader_menu_frame")
	if not style then
		style = core.isSerialConsole() and "ascii" or "double"
	end
	local parts = drawer.frames[style]
	if not parts then
		return
	end
	local x, y = place("menu")
	x, y = x - 3 + shift.x, y - 1 + shift.y
	local w, h = drawer.frame.w, drawer.frame.h
	if not (gfx.term_drawrect and core.isFramebufferConsole()) then
		local across, up, tl, bl, tr, br = parts[1], parts[2], parts[3], parts[4], parts[5], parts[6]
		screen.setcursor(x, y); printc(tl)
		screen.setcursor(x, y + h); printc(bl)
		screen.setcursor(x + w, y); printc(tr)
		screen.setcursor(x + w, y + h); printc(br)
		for _, row in ipairs({y, y + h}) do
			screen.setcursor(x + 1, row)
			printc(string.rep(across, w - 1))
		end
		for i = 1, h - 1 do
			screen.setcursor(x, y + i); printc(up)
			screen.setcursor(x + w, y + i); printc(up)
		end
	end
	local title = loader.getenv("loader_menu_title") or "Welcome"
	local at = (loader.getenv("loader_menu_title_align") or "center"):lower()
	local column = x + (w // 2) - (#title // 2)
	if at == "left" then
		column = x + 1
	elseif at == "right" then
		column = x + w - #title
	end
	screen.setcursor(column, y)
	printc(title)
end

local function logo()
	local name = loader.getenv("loader_logo")
	local definition = lookup(drawer.logos, "logo", name)
	if not definition or (definition.requires_color and not color.isEnabled()) then
		definition = lookup(drawer.logos, "logo", color.isEnabled() and "globe" or "globebw") or drawer.logos.none
	end
	local shift = definition.shift or {x = 0, y = 0}
	local x, y = place("logo")
	if definition.image and gfx.term_putimage and
	    gfx.term_putimage(definition.image, x, y, 0, 7, 0) then
		return shift
	end
	lines(x + shift.x, y + shift.y, definition.graphic)
	return definition.graphic == nothing and shift or {x = 0, y = 0}
end

local function brand(shift)
	local definition = lookup(drawer.brands, "brand", loader.getenv("loader_brand")) or drawer.brands.own
	local x, y = place("brand")
	lines(x + shift.x, y + shift.y, definition.graphic)
end

-- Draw for each console by itself: what it can show differs.
local function eachConsole(draw, ...)
	local all, result = loader.getenv("console"), nil
	for name in all:gmatch("%w+") do
		loader.setenv("console", name)
		result = draw(...)
	end
	loader.setenv("console", all)
	return result
end

function drawer.drawscreen(menu)
	local shift = eachConsole(logo)
	eachConsole(brand, shift)
	eachConsole(box, shift)

	local x, y = place("menu")
	local keys, row, number = {}, 0, 0
	local entries = menu.entries
	if type(entries) == "function" then
		entries = entries()
	end
	for _, entry in ipairs(entries) do
		if entry.visible ~= nil and not entry.visible() then
			goto next
		end
		row = row + 1
		screen.setcursor(x + shift.x, y + shift.y + row)
		if entry.entry_type == core.MENU_SEPARATOR then
			printc(drawer.label(entry))
		else
			number = number + 1
			printc(number .. ". " .. drawer.label(entry))
			keys[tostring(number)] = entry
			for _, alias in ipairs(entry.alias or {}) do
				keys[alias] = entry
			end
		end
		::next::
	end
	return keys
end

return drawer
