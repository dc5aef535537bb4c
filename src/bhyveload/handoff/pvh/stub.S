# The last instructions before the guest's first: from PVH's entry state to the state that bhyveload(8) left.
#
# QEMU's firmware runs first and then enters here: 32-bit protected mode, flat segments, paging off,
# EBX = struct hvm_start_info (Xen's include/public/arch-x86/hvm/start_info.h).
# pvh.py places a copy of this code in a free piece of guest memory, fills in the parameters and appends the two lists.
#
# The only address in the code is the one that EBP gets, so the stub runs anywhere below 4 GiB (the byte offset of
# that immediate is pvh.STUB_BASE).  The code and its parameters fit in one page: only that page has to be mapped
# identically by the guest's page tables.

        .set MAP_MAX, 64                # entries of the firmware's map that are looked at
        .set MAP_ENTRY, 24              # struct hvm_memmap_table_entry: u64 addr, u64 size, u32 type, u32 reserved
        .set MAP_RAM, 1                 # XEN_HVM_MEMMAP_TYPE_RAM
        .set MSR_EFER, 0xc0000080

        .code32
        .globl start
start:
        movl    $0x100000, %ebp
        jmp     begin

        .org    16                      # pvh.STUB_PARAMETERS
long_mode:      .long 0                 # 1: the guest starts in 64-bit mode, 0: in 32-bit mode without paging
copies:         .long 0                 # list of {u32 to, u32 from (0: fill with zeros), u32 words}; words 0 ends it
fixes:          .long 0                 # list of {u32 field, u32 shift, u64 base}; field 0 ends it
p_cr0:          .long 0
p_cr3:          .long 0
p_cr4:          .long 0
p_efer:         .long 0                 # without LMA
p_unused:       .long 0
p_tss:          .quad 0                 # descriptor for selector 0x18, 0: TR stays as it is (32-bit guests)
p_gdtr:         .quad 0                 # u16 limit, then the base
                .quad 0
p_rflags:       .quad 0
p_rip:          .quad 0
p_rsp:          .quad 0
p_rax:          .quad 0
p_rbx:          .quad 0
p_rcx:          .quad 0
p_rdx:          .quad 0
p_rsi:          .quad 0
p_rdi:          .quad 0
p_rbp:          .quad 0
p_r8:           .quad 0
p_r9:           .quad 0
p_r10:          .quad 0
p_r11:          .quad 0
p_r12:          .quad 0
p_r13:          .quad 0
p_r14:          .quad 0
p_r15:          .quad 0

begin:
        cli
        cld
        leal    stack_top-start(%ebp), %esp

# Keep the firmware's memory map: it lies in low memory, which is about to be put back.
        xorl    %ecx, %ecx
        cmpl    $1, 4(%ebx)             # version: the map came with 1
        jb      1f
        movl    40(%ebx), %esi          # memmap_paddr
        movl    48(%ebx), %ecx          # memmap_entries
        cmpl    $MAP_MAX, %ecx
        jbe     1f
        movl    $MAP_MAX, %ecx
1:      movl    %ecx, map_entries-start(%ebp)
        imull   $(MAP_ENTRY / 4), %ecx, %ecx
        leal    map-start(%ebp), %edi
        rep movsl

# Put back what the firmware used: the loader's pages, zeros elsewhere.
        movl    copies-start(%ebp), %edx
next_copy:
        movl    8(%edx), %ecx
        jecxz   copied
        movl    (%edx), %edi
        movl    4(%edx), %esi
        addl    $12, %edx
        testl   %esi, %esi
        jz      1f
        rep movsl
        jmp     next_copy
1:      xorl    %eax, %eax
        rep stosl
        jmp     next_copy

# Cut each length in the guest's memory map down to what the firmware leaves free from the same base on.
copied:
        cmpl    $0, map_entries-start(%ebp)
        je      fixed
        movl    fixes-start(%ebp), %esi
next_fix:
        movl    (%esi), %edi
        testl   %edi, %edi
        jz      fixed
        movl    map_entries-start(%ebp), %ecx
        leal    map-start(%ebp), %ebx
look:   jecxz   absent
        cmpl    $MAP_RAM, 16(%ebx)
        jne     1f
        movl    8(%esi), %eax           # edx:eax = base - addr
        movl    12(%esi), %edx
        subl    (%ebx), %eax
        sbbl    4(%ebx), %edx
        jb      1f
        subl    8(%ebx), %eax           # ... - size: negative when base lies in this entry
        sbbl    12(%ebx), %edx
        jae     1f
        negl    %eax                    # what is left of the entry behind base
        adcl    $0, %edx
        negl    %edx
        jmp     cut
1:      addl    $MAP_ENTRY, %ebx
        decl    %ecx
        jmp     look
absent: xorl    %eax, %eax
        xorl    %edx, %edx
cut:    movl    4(%esi), %ecx
        jecxz   wide
        shrdl   %cl, %edx, %eax         # a 32-bit field in units of 1 << shift bytes
        shrl    %cl, %edx
        jnz     fix_done
        cmpl    (%edi), %eax
        jae     fix_done
        movl    %eax, (%edi)
        jmp     fix_done
wide:   cmpl    4(%edi), %edx
        ja      fix_done
        jb      1f
        cmpl    (%edi), %eax
        jae     fix_done
1:      movl    %eax, (%edi)
        movl    %edx, 4(%edi)
fix_done:
        addl    $16, %esi
        jmp     next_fix

fixed:
        movl    p_cr4-start(%ebp), %eax
        movl    %eax, %cr4
        cmpl    $0, long_mode-start(%ebp)
        je      enter32

        leal    gdt64-start(%ebp), %eax
        movl    %eax, own_gdtr+2-start(%ebp)
        movl    p_cr3-start(%ebp), %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        movl    p_efer-start(%ebp), %eax
        xorl    %edx, %edx
        wrmsr
        movl    p_cr0-start(%ebp), %eax
        movl    %eax, %cr0
        lgdt    own_gdtr-start(%ebp)
        pushl   $8
        leal    enter64-start(%ebp), %eax
        pushl   %eax
        lret

        .code64
enter64:
        movl    $16, %eax               # from our own descriptors: the guest's data descriptor is read-only, SS refuses it
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    %eax, %fs
        movl    %eax, %gs
        lgdt    p_gdtr(%rip)
        leaq    stack_top(%rip), %rsp
        pushq   p_rflags(%rip)
        popfq
        movq    p_rax(%rip), %rax
        movq    p_rbx(%rip), %rbx
        movq    p_rcx(%rip), %rcx
        movq    p_rdx(%rip), %rdx
        movq    p_rsi(%rip), %rsi
        movq    p_rdi(%rip), %rdi
        movq    p_rbp(%rip), %rbp
        movq    p_r8(%rip), %r8
        movq    p_r9(%rip), %r9
        movq    p_r10(%rip), %r10
        movq    p_r11(%rip), %r11
        movq    p_r12(%rip), %r12
        movq    p_r13(%rip), %r13
        movq    p_r14(%rip), %r14
        movq    p_r15(%rip), %r15
        movq    p_rsp(%rip), %rsp
        jmp     *p_rip(%rip)

        .code32
enter32:
        leal    gdt32-start(%ebp), %eax
        movl    %eax, own_gdtr+2-start(%ebp)
        movl    p_cr0-start(%ebp), %eax
        movl    %eax, %cr0
        movl    p_tss-start(%ebp), %eax
        movl    %eax, tss32-start(%ebp)
        movl    p_tss+4-start(%ebp), %edx
        movl    %edx, tss32+4-start(%ebp)
        lgdt    own_gdtr-start(%ebp)
        pushl   $8
        leal    1f-start(%ebp), %ecx
        pushl   %ecx
        lret
1:      movl    $16, %ecx
        movl    %ecx, %ds
        movl    %ecx, %es
        movl    %ecx, %ss
        movl    %ecx, %fs
        movl    %ecx, %gs
        orl     %eax, %edx
        jz      1f
        movl    $0x18, %ecx             # marks our own descriptor busy, not the guest's
        ltr     %cx
1:      lgdt    p_gdtr-start(%ebp)
        leal    leave32-start(%ebp), %ecx
        movl    p_rip-start(%ebp), %eax
        subl    %ecx, %eax
        movl    %eax, leave32-4-start(%ebp)
        pushl   p_rflags-start(%ebp)
        popfl
        movl    p_rax-start(%ebp), %eax
        movl    p_rbx-start(%ebp), %ebx
        movl    p_rcx-start(%ebp), %ecx
        movl    p_rdx-start(%ebp), %edx
        movl    p_rsi-start(%ebp), %esi
        movl    p_rdi-start(%ebp), %edi
        movl    p_rsp-start(%ebp), %esp
        movl    p_rbp-start(%ebp), %ebp
        .byte   0xe9                    # jmp to where the four bytes say: no register and no stack is left to use
        .long   0
leave32:

        .balign 8, 0xcc         # int3, for assemblers differ in the no-operations that they choose
gdt64:  .quad   0, 0x00209b0000000000, 0x0000930000000000, 0
gdt32:  .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
tss32:  .quad   0
own_gdtr:
        .word   31
        .long   0
        .balign 8, 0xcc
        .fill   8, 8, 0
stack_top:
map_entries:
        .long   0
map:                                    # MAP_MAX entries, not part of the file
