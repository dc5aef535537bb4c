\ The words of a boot: strings, configuration files, modules, kernels.  In the manner of FreeBSD's loader.4th and
\ support.4th, not theirs.

only forth definitions

\ Versions and fallbacks
s" loader_version" environment? [if] 11 < [if] .( too old a loader) cr abort [then] [else] .( which loader?) cr [then]
s" xemit" sfind [if] drop [else] drop
: xemit emit ;
[then]
s" arch-i386" environment? [if] drop
    .( for i386) cr
[else]
    s" u>" sfind 0= [if] drop : u> swap u< ; [else] drop [then]
[then]
256 dictthreshold !
2048 dictincrease !

include /boot/screen.4th
include /boot/conf.4th

only forth also configuration definitions

\ Kernels: $kernel names a folder of /boot, a folder, or a file; $bootfile what to look for in it

: no-path ( -- ) s" module_path" unsetenv ;

: path-with { folder len | buffer -- }
    s" module_path" getenv dup -1 = if drop s" " then
    dup len + 16 + allocate throw to buffer
    buffer 0  folder len append  s" ;" append  2swap append
    s" module_path" setenv
    buffer free drop
;

: boot-folder { name len | buffer -- addr len' }
    len 8 + allocate throw to buffer
    buffer 0 s" /boot/" append name len append
;

: try-load ( args alen name len -- flag ) 2 ['] load-files catch dup if nip nip nip nip nip then ;

: each-bootfile { xt | list len -- flag }
    s" bootfile" getenv dup -1 = if drop s" kernel" then to len to list
    begin
        len
    while
        list len [char] ; split ( rest rlen word wlen )
        2swap to len to list
        xt execute 0= if false exit then
    repeat
    true
;

: load-one ( addr len -- flag ) kernel-options 2swap try-load ;

: load-kernel ( -- )
    s" kernel" getenv dup -1 = if
        drop ['] load-one each-bootfile abort" no kernel"
    else
        2dup boot-folder 2dup path-with drop free drop
        ['] load-one each-bootfile if
            no-path 2dup path-with
            ['] load-one each-bootfile if
                2dup load-one abort" Cannot load the kernel"
            then
        then
        2drop
    then
;

: load-everything ( -- ) load-kernel load-modules ;

also builtins definitions

\ boot [kernel] [flags]: the raw word gets a flag, 0 when it was typed
: boot ( N strings 1 | 0 -- )
    0= if line-words then
    dup if
        >r over r> swap c@ [char] - <> if
            >r s" kernel" setenv r> 1-
            0 1 unload drop
        then
    then
    s" kernelname" set? 0= if load-everything then
    menu-gone
    1 boot
;

only forth also builtins also forth definitions previous
builtin: boot

only forth also configuration also forth definitions

: initialize ( -- )
    s" /boot/defaults/loader.conf" read-conf-file
    read-listed-files
    read-nextboot
    s" after-conf" sfind if execute else drop then
;

: start ( -- )
    initialize
    conf-files-read @ if load-everything then
;

: ask-password ( -- ) ask-password ;

: read-conf ( "name" -- ) bl parse read-conf-file read-listed-files ;

: try-include ( "file" -- )
    ['] include catch if 10 parse 2drop then
; immediate

: show-modules ( -- )
    modules @ begin ?dup while
        dup >name-of type
        dup >wanted @ if ."  yes" else ."  no" then cr
        >next @
    repeat
;

only forth definitions
