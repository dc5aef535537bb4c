/* The probe guest: what the entry code hands to probe(). */
#ifndef PROBE_H
#define PROBE_H

/* Saved by the entry code before anything is changed; the order is start_amd64.S's and start_i386.S's. */
struct entry {
	unsigned long rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, rflags, rip;
	unsigned long r8, r9, r10, r11, r12, r13, r14, r15;
	unsigned long cr0, cr3, cr4, efer;
	unsigned long cs, ds, es, fs, gs, ss, tr, ldtr;
	unsigned short gdtr_limit;
	unsigned char gdtr_base[8];
	unsigned short idtr_limit;
	unsigned char idtr_base[8];
};

extern struct entry entry;

void probe(void);

#endif
