\ A menu: what is chosen is Forth text in variables, as in FreeBSD's menu.4th.

marker menu.4th
vocabulary menus
only forth also configuration also menus definitions

variable row
2variable corner   4 10 corner 2!
create label 80 allot
2variable shown   0 0 shown 2!
user last-key
0 value counting?
variable seconds-left
variable then-second

\ The n-th variable of a kind: the x of its name is replaced
: numbered { n addr len at -- addr len } n [char] 0 + addr at + c! addr len ;
: caption[] ( n -- addr len ) s" menu_caption[x]" 13 numbered ;
: command[] ( n -- addr len ) s" menu_command[x]" 13 numbered ;
: keycode[] ( n -- addr len ) s" menu_keycode[x]" 13 numbered ;
: init[]    ( n -- addr len ) s" menu_init[x]" 10 numbered ;
: text-of ( addr len -- addr len | 0 0 ) getenv dup -1 = if drop 0 0 then ;

: menu-unset ( -- )
    9 1 do
        i caption[] unsetenv  i command[] unsetenv  i keycode[] unsetenv  i init[] unsetenv
    loop
    s" menu_timeout_command" unsetenv
;
: item { n addr len -- }
    1 row +!
    corner 2@ row @ + at
    bold n <# [char] . hold 0 #s #> type plain space
    addr len carets type
;
: draw ( -- )
    0 row !
    wipe 40 12 1 8 frame
    9 1 do
        i init[] text-of dup if evaluate else 2drop then
        i caption[] text-of dup if label 0 2swap append i -rot item else 2drop then
    loop
    0 24 at
;
: chosen? { pressed n -- flag }
    pressed [char] 0 - n = if true exit then
    n keycode[] text-of dup 0= if 2drop false exit then
    ?number 1 = if pressed = else false then
;
: countdown ( -- )
    counting? 0= if exit then
    seconds then-second @ = if exit then
    seconds then-second !
    -1 seconds-left +!
    4 23 at ." Boot in " seconds-left @ 0 max s>d <# #s #> type ."  seconds " 0 24 at
    seconds-left @ 0> if exit then
    false to counting?
    s" menu_timeout_command" text-of dup if evaluate else 2drop then
;
: next-key ( -- char ) begin countdown key? 0= while 50 ms repeat false to counting? key dup last-key ! ;
: run-choice ( n -- flag ) \ a command leaves a flag: whether the menu goes on
    command[] text-of dup if evaluate else 2drop true then
;
: choose ( char -- flag )
    9 1 do
        dup i chosen? if drop i unloop run-choice exit then
    loop
    drop true
;
: toggle { addr len -- true }
    addr len set? if addr len unsetenv else s" YES" addr len setenv then draw true
;
: toggle-single ( -- true ) s" boot_single" toggle ;
: toggle-verbose ( -- true ) s" boot_verbose" toggle ;
: to-prompt ( -- false ) s" NO" s" autoboot_delay" setenv cr ." Type menu-start to come back." cr false ;
: next-environment ( -- true ) \ the boot environments of a pool, one after the other
    s" bootenvs[0]" getenv dup -1 = if drop true exit then
    2dup s" vfs.root.mountfrom" setenv
    s" set currdev=${vfs.root.mountfrom}:" evaluate 2drop
    s" unload" evaluate draw true
;
: menu-loop ( -- )
    draw
    begin
        next-key
        case
            13 of s" boot" evaluate endof
            10 of s" boot" evaluate endof
            27 of to-prompt 0= if exit then endof
            dup choose 0= if drop exit then
        endcase
    again
;
: wait-for-it ( -- )
    s" autoboot_delay" getenv dup -1 = if drop 10
    else 2dup ?number 1 = if nip nip else 2drop -2 then then
    dup -1 = if drop s" boot" evaluate then
    dup 0> if seconds-left ! true to counting? seconds then-second ! else drop then
;

only forth also configuration also menus also forth definitions

: menu-start ( -- )
    only forth also configuration also menus \ where the menu's commands are found
    s" beastie_disable" text-of yes? if
        conf-files-read @ if load-everything then exit
    then
    s" include /boot/menu.rc" evaluate
    wait-for-it
    menu-loop
;
only forth definitions
