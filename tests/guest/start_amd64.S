# Entry of the 64-bit probe guest, at KERNBASE + 2 MiB as a FreeBSD kernel: save every register, then call probe().
        .text
        .globl btext
btext:
        movq    %rax, entry+0(%rip)
        movq    %rbx, entry+8(%rip)
        movq    %rcx, entry+16(%rip)
        movq    %rdx, entry+24(%rip)
        movq    %rsi, entry+32(%rip)
        movq    %rdi, entry+40(%rip)
        movq    %rbp, entry+48(%rip)
        movq    %rsp, entry+56(%rip)
        leaq    btext(%rip), %rax
        movq    %rax, entry+72(%rip)
        movq    %r8, entry+80(%rip)
        movq    %r9, entry+88(%rip)
        movq    %r10, entry+96(%rip)
        movq    %r11, entry+104(%rip)
        movq    %r12, entry+112(%rip)
        movq    %r13, entry+120(%rip)
        movq    %r14, entry+128(%rip)
        movq    %r15, entry+136(%rip)
        leaq    stack_top(%rip), %rsp
        pushfq
        popq    entry+64(%rip)
        movq    %cr0, %rax
        movq    %rax, entry+144(%rip)
        movq    %cr3, %rax
        movq    %rax, entry+152(%rip)
        movq    %cr4, %rax
        movq    %rax, entry+160(%rip)
        movl    $0xc0000080, %ecx
        rdmsr
        movl    %eax, entry+168(%rip)
        movl    %edx, entry+172(%rip)
        movl    %cs, %eax
        movl    %eax, entry+176(%rip)
        movl    %ds, %eax
        movl    %eax, entry+184(%rip)
        movl    %es, %eax
        movl    %eax, entry+192(%rip)
        movl    %fs, %eax
        movl    %eax, entry+200(%rip)
        movl    %gs, %eax
        movl    %eax, entry+208(%rip)
        movl    %ss, %eax
        movl    %eax, entry+216(%rip)
        str     %eax
        movl    %eax, entry+224(%rip)
        sldt    %eax
        movl    %eax, entry+232(%rip)
        sgdt    entry+240(%rip)
        sidt    entry+250(%rip)
        cld
        call    probe
1:      cli
        hlt
        jmp     1b
        .size   btext, . - btext

        .data
        .balign 16
        .globl entry
entry:  .fill   260, 1, 0               # in .data: .bss is one of the things to look at

        .section .stack, "aw", @nobits
        .balign 16
        .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
