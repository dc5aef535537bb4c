marker conf.4th
vocabulary configuration
only forth also configuration definitions

1 constant bad-syntax
2 constant bad-value
3 constant no-file
10 constant newline
9 constant tab

\ Records: `record: name` begins one, `field: name` adds cells to it

: record: ( "name" -- here 0 ) create here 0 dup , does> @ ;
: field: ( size cells "name" -- size' ) create over , cells + does> @ + ;
: ;record ( here size -- ) swap ! ;

record: pair
    1 field: >text
    1 field: >length
;record

record: a-module
    1 field: >next
    1 field: >wanted
    2 field: >the-name
    2 field: >file
    2 field: >kind
    2 field: >flags
    2 field: >before
    2 field: >after
    2 field: >trouble
;record

variable modules   0 modules !
variable last-module   0 last-module !
variable conf-files-read   0 conf-files-read !
0 value verbose?

\ Strings

: s' ( "text'" -- addr len ) [char] ' parse state @ if postpone sliteral then ; immediate

: string@ ( pair -- addr len ) dup >text @ swap >length @ ;
: append ( addr len addr' len' -- addr len+len' ) { to tlen from flen } from to tlen + flen move to tlen flen + ;
: copy ( addr len -- addr' len ) dup allocate throw { from len to } from to len move to len ;
: string! ( addr len pair -- ) >r r@ >text @ ?dup if free drop then copy r@ >length ! r> >text ! ;
: find-char { addr len char -- addr' len' }
    begin len while
        addr c@ char = if addr len exit then
        addr char+ to addr  len 1- to len
    repeat
    addr 0
;
: split { addr len char | at left -- rest rlen word wlen }
    addr len char find-char to left to at
    left if at 1+ left 1- else addr len + 0 then
    addr len left -
;
: begins-with { addr len head hlen -- flag } len hlen < if false exit then addr hlen head hlen compare 0= ;
: unquoted ( addr len -- addr len )
    dup 2 < if exit then
    over c@ [char] " = if 2 - swap 1+ swap then
;
: ends-with { addr len tail tlen -- flag }
    len tlen < if false exit then
    addr len + tlen - tlen tail tlen compare 0=
;
: set? ( addr len -- flag ) getenv dup -1 = if drop false else 2drop true then ;
: yes? ( addr len -- flag ) unquoted s" yes" compare-insensitive 0= ;

\ Modules

: >name-of ( module -- addr len ) >the-name string@ ;
: module-named { addr len -- module | 0 }
    modules @ begin
        dup
    while
        dup >name-of addr len compare 0= if exit then
        >next @
    repeat
;
: new-module { addr len | it -- module }
    a-module allocate throw to it
    it a-module erase
    addr len it >the-name string!
    last-module @ ?dup if it swap >next ! else it modules ! then
    it last-module !
    it
;
: the-module ( addr len -- module ) 2dup module-named ?dup if nip nip else new-module then ;

\ One assignment: its name and value lie in two pairs

create the-name pair allot   the-name pair erase
create the-value pair allot   the-value pair erase

: ending? ( addr len -- flag ) the-name string@ 2swap ends-with ;
: stem ( n -- addr len ) the-name string@ rot - ;
: field-of ( n xt -- ) >r stem the-module r> execute the-value string@ unquoted rot string! ;

: into-environment { | buffer -- }
    the-name string@ nip the-value string@ nip + 8 + allocate throw to buffer
    buffer 0 s" set " append the-name string@ append s" =" append the-value string@ append
    ['] evaluate catch if 2drop bad-value throw then
    buffer free drop
;

: assign ( -- )
    s" _load"   ending? if 5 stem the-module the-value string@ yes? swap >wanted ! exit then
    s" _name"   ending? if 5 ['] >file    field-of exit then
    s" _type"   ending? if 5 ['] >kind    field-of exit then
    s" _flags"  ending? if 6 ['] >flags   field-of exit then
    s" _before" ending? if 7 ['] >before  field-of exit then
    s" _after"  ending? if 6 ['] >after   field-of exit then
    s" _error"  ending? if 6 ['] >trouble field-of exit then
    the-name string@ s" exec" compare 0= if the-value string@ unquoted evaluate exit then
    the-name string@ s" verbose_loading" compare 0= if the-value string@ yes? to verbose? exit then
    into-environment
;

\ Lines

0 value at-char
0 value line-end
: here? ( -- char | -1 ) at-char line-end < if at-char c@ else -1 then ;
: forward ( -- ) at-char char+ to at-char ;
: blanks ( -- ) begin here? dup bl = swap tab = or while forward repeat ;
: name-char? ( char -- flag )
    case
        [char] _ of true endof
        [char] . of true endof
        [char] - of true endof
        dup [char] 0 [char] : within if drop true exit then
        dup 32 or [char] a [char] { within if drop true exit then
        false swap
    endcase
;
: bare ( -- addr len ) at-char begin here? name-char? while forward repeat at-char over - ;
: quoted ( -- addr len )
    at-char forward
    begin here? [char] " <> while
        here? -1 = if bad-syntax throw then
        here? [char] \ = if forward here? -1 = if bad-syntax throw then then
        forward
    repeat
    forward at-char over -
;
: parse-line { addr len -- }
    addr to at-char  addr len + to line-end
    blanks here? dup -1 = swap [char] # = or if exit then
    bare dup 0= if bad-syntax throw then the-name string!
    blanks here? [char] = <> if bad-syntax throw then forward blanks
    here? [char] " = if quoted else bare then
    dup 0= if bad-syntax throw then the-value string!
    blanks here? dup -1 <> swap [char] # <> and if bad-syntax throw then
    assign
;

\ Files

variable fd
variable file-text   0 file-text !
variable file-size   0 file-size !
variable line-number

: whole-file ( addr len -- ) \ into file-text
    0 fopen dup fd ! -1 = if no-file throw then
    0 file-size !
    file-text @ ?dup if free drop then
    256 allocate throw file-text !
    begin
        file-text @ file-size @ 256 + resize throw file-text !
        fd @ file-text @ file-size @ + 256 fread dup 0>
    while
        file-size +!
    repeat
    drop fd @ fclose
;
: complain ( code -- )
    dup bad-syntax = if ." line " line-number @ . ." is no assignment" cr drop exit then
    dup bad-value = if ." line " line-number @ . ." cannot be set" cr drop exit then
    throw
;
: parse-file { | rest len -- }
    file-text @ to rest  file-size @ to len   0 line-number !
    begin len while
        rest len newline split 2swap to len to rest
        1 line-number +!
        ['] parse-line catch ?dup if nip nip complain then
    repeat
;
: read-conf-file ( addr len -- )
    2dup ['] whole-file catch if
        2drop verbose? if ." no file " type cr else 2drop then
    else
        verbose? if ." reading " 2dup type cr then
        2drop parse-file
        1 conf-files-read +!
    then
;
: read-listed-files { | list len -- }
    s" loader_conf_files" getenv dup -1 = if drop exit then copy to len to list
    begin len while
        list len bl split 2swap to len to list
        dup if read-conf-file else 2drop then
    repeat
;

\ A kernel for the next boot only

: read-nextboot { | name len -- }
    s" nextboot_conf" getenv dup -1 = if drop exit then copy to len to name
    name len ['] whole-file catch if 2drop exit then
    file-text @ file-size @ s' nextboot_enable="YES"' begins-with 0= if exit then
    parse-file
    name len 1 fopen dup fd ! -1 <> if
        fd @ s' nextboot_enable="NO" ' fwrite drop
        fd @ fclose
    then
    s" NO" s" nextboot_enable" setenv
;

\ Loading what is wanted

: load-files ( strings N -- ) load ;
: kernel-options ( -- addr len ) s" kernel_options" getenv dup -1 = if drop s" " then ;
: run-hook ( module xt -- module ) over swap execute string@ dup if evaluate else 2drop then ;
: load-module { it | base -- }
    depth to base
    verbose? if it >name-of type ." ... " then
    it ['] >before run-hook drop
    it >flags string@
    it >file string@ dup 0= if 2drop it >name-of then
    it >kind >length @ if it >kind string@ s" -t" 4 else 2 then
    ['] load-files catch if
        begin depth base > while drop repeat
        verbose? if ." failed" cr then
        it ['] >trouble run-hook drop
    else
        it ['] >after run-hook drop
        verbose? if ." loaded" cr then
    then
;
: load-modules ( -- )
    modules @
    begin ?dup while
        dup >r
        dup >wanted @ if load-module else drop then
        r> >next @
    repeat
;

\ A typed line's words: the first one on top

: line-words ( -- strings N ) parse-word { a u -- } u 0= if 0 exit then recurse >r a u r> 1+ ;
: menu-gone ( -- ) s" menu-unset" sfind if execute else drop then ;

\ Passwords

32 constant longest
create typed longest allot
: typed-line ( addr len -- addr' len' ) \ with a prompt, without an echo
    type 0
    begin
        key dup 13 <> over 10 <> and
    while
        over longest < if over typed + c! 1+ else drop then
    repeat
    drop cr typed swap
;
: ask-password ( -- )
    s" password" getenv dup -1 = if drop exit then
    copy
    begin
        s" Password: " typed-line 2over compare
    while
        ." wrong" cr
    repeat
    drop free drop
;
