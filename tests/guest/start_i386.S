# Entry of the 32-bit probe guest: flat segments, no paging; linked where it is loaded.
        .text
        .globl btext
btext:
        movl    %eax, entry+0
        movl    %ebx, entry+4
        movl    %ecx, entry+8
        movl    %edx, entry+12
        movl    %esi, entry+16
        movl    %edi, entry+20
        movl    %ebp, entry+24
        movl    %esp, entry+28
        movl    $btext, entry+36
        movl    $stack_top, %esp
        pushfl
        popl    entry+32
        xorl    %eax, %eax
        movl    $8, %ecx                # r8 to r15
        movl    $entry+40, %edi
        rep stosl
        movl    %cr0, %eax
        movl    %eax, entry+72
        movl    %cr3, %eax
        movl    %eax, entry+76
        movl    %cr4, %eax
        movl    %eax, entry+80
        movl    $0xc0000080, %ecx
        rdmsr
        movl    %eax, entry+84
        movl    %cs, %eax
        movl    %eax, entry+88
        movl    %ds, %eax
        movl    %eax, entry+92
        movl    %es, %eax
        movl    %eax, entry+96
        movl    %fs, %eax
        movl    %eax, entry+100
        movl    %gs, %eax
        movl    %eax, entry+104
        movl    %ss, %eax
        movl    %eax, entry+108
        xorl    %eax, %eax
        str     %eax
        movl    %eax, entry+112
        sldt    %eax
        movl    %eax, entry+116
        sgdt    entry+120
        sidt    entry+130
        cld
        call    probe
1:      cli
        hlt
        jmp     1b
        .size   btext, . - btext

        .data
        .balign 16
        .globl entry
entry:  .fill   140, 1, 0

        .section .stack, "aw", @nobits
        .balign 16
        .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
