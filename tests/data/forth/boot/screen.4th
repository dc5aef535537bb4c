marker screen.4th
: esc[ ( -- ) 27 emit [char] [ emit ;
: at ( column row -- ) esc[ .# [char] ; emit .# [char] H emit ;
: wipe ( -- ) esc[ [char] H emit esc[ [char] J emit ;
: bold ( -- ) esc[ 1 .# [char] m emit ;
: plain ( -- ) esc[ [char] m emit ;
: colours? ( -- flag )
    s" loader_color" getenv dup -1 = if drop true exit then
    2dup s" NO" compare-insensitive 0= -rot s" 0" compare 0= or 0=
;
: carets ( addr len -- addr len ) \ ^ stands for escape
    2dup 0 ?do dup i + dup c@ [char] ^ = if 27 swap c! else drop then loop drop
;
: horizontal ( width -- ) 0 ?do 0x2550 xemit loop ;
: frame { width height column row -- }
    column row at 0x2554 xemit width horizontal 0x2557 xemit
    height 1+ 1 do
        column row i + at 0x2551 xemit
        column width + 1+ row i + at 0x2551 xemit
    loop
    column row height + 1+ at 0x255a xemit width horizontal 0x255d xemit
;
