"""The names of ficl's words, in the order in which ficl defines them (it shows in WORDS), and which of them are
immediate, compile-only or may ask for more text (stand/ficl/{words,search,tools,prefix,loader,gfx_loader}.c,
stand/ficl/x86/sysdep.c, stand/ficl/softwords)."""

from __future__ import annotations

CORE = r"""
! # #> #s ' ( * */ */mod + +! +loop , - . ." / /mod 0< 0= 1+ 1- 2! 2* 2/ 2@ 2drop 2dup 2over 2swap : ; < <# = > >body
>in >number >r ?dup @ abort accept align aligned allot and base begin c! c, c@ case cell+ cells char char+ chars
constant count cr create decimal depth do does> drop dup else emit endcase endof environment? evaluate execute exit
fallthrough fill find fm/mod here hold i if immediate invert j k leave literal loop lshift m* max min mod move negate
of or over postpone quit r> r@ recurse repeat rot rshift s" s>d sign sm/rem source state swap then type u. u< u> um*
um/mod unloop until variable while word xor [ ['] [char] ] .( 0> 2>r 2r> 2r@ :noname ?do again c" hex pad parse pick
roll refill source-id to value \ 2constant 2literal 2variable dnegate catch throw (link) (unlink) doLocal (@local)
(toLocal) (@local0) (toLocal0) (@local1) (toLocal1) (local) (@2local) (to2Local) (2local) allocate free resize >search
search> definitions forth-wordlist get-current get-order search-wordlist set-current set-order ficl-wordlist
wid-get-name wid-set-name wid-set-super .s bye forget see words r.s .env env-constant env-2constant debug-xt
parse-order step-break forget-wid see-xt .ver -roll >name add-parse-step body> compare compare-insensitive
compile-only endif last-word hash objectify ?object parse-word sfind sliteral sprintf strlen q@ q! w@ w! x. (user)
user (create) (exit) (;) (literal) (2literal) (.") (c") (branch0) (branch) (do) (does>) (?do) (loop) (+loop) interpret
lookup (of) (variable) (constant) (parse-step) exit-inner
"""
PREFIX = "__tempbase"
PLATFORM = r"""
.# isdir? fopen fclose fread freaddir fload fkey fseek fwrite key key? ms seconds heap? dictthreshold dictincrease
setenv setenv? getenv unsetenv copyin copyout findfile ccall uuid-from-string uuid-to-string isvirtualized?
"""
# FreeBSD 13.2's userboot has them, the newer one has not
GRAPHICS = r"""
fb-setpixel fb-line fb-bezier fb-drawrect fb-putimage term-drawrect term-putimage
"""
PORTS = "outb inb"
PARSE_STEPS = "?prefix ?number"
# What ficl defines in Forth
SOFT = r"""
nUser user empty cell- -rot abs bl space spaces abort" false true <> 0<> compile, convert erase span expect nip tuck
within u.r locals| local 2local end-locals ? /dump i' .4 .chars .line dump brand-wordlist ficl-named-wordlist wordlist
ficl-set-current do-vocabulary ficl-vocabulary vocabulary previous hidden hide also forth only order debug on-step
strdup strcat strcpy xemit { marker tib> % $ {{ [else] [if] [then] [endif]
"""
IMMEDIATE = r"""
( +loop ." .( 2constant 2literal 2local 2variable ; ?do [ ['] [char] [else] [endif] [if] [then] \ abort" again begin
c" case debug do doLocal does> else end-locals endcase endif endof exit fallthrough if literal local locals| loop of
postpone recurse repeat s" sliteral then to until while { {{
"""
COMPILE_ONLY = r"""
(+loop) (.") (2literal) (2local) (;) (?do) (@2local) (@local) (@local0) (@local1) (branch) (branch0) (c") (constant)
(create) (do) (does>) (exit) (link) (literal) (local) (loop) (to2Local) (toLocal) (toLocal0) (toLocal1) (unlink)
(variable) +loop ." 2>r 2r> 2r@ ; >r ?do [ ['] [char] again begin case do doLocal does> else endcase endif endof exit
fallthrough i if j k leave loop of postpone r> r@ recurse repeat sliteral then unloop until while { {{
"""
# Words that may ask for more text, and are run again with the next line when it comes
RESTARTABLE = r"""
' 2constant 2variable : ['] [char] accept char constant create debug env-2constant env-constant ficl-named-wordlist
ficl-vocabulary forget interpret marker postpone refill see step-break to user value variable vocabulary
"""


def names(text: str) -> list[str]:
    """The names in one of the lists above."""
    return text.split()
