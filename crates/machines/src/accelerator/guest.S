# The guest of the accelerator's self-test. It is the last kilobyte of a ROM, so
# that the processor begins in it at reset and no firmware is needed. It does what
# a kernel does first and what incomplete virtualisation gets wrong:
#
#   real mode -> protected mode -> page tables -> long mode -> code in the upper
#   half -> a page fault that is repaired -> a change of the page tables' root ->
#   timer interrupts that end `hlt` -> some work -> exit code through isa-debug-exit
#
# guest.bin is made by:
#   as --64 guest.S -o guest.o && ld -Ttext=0xFFFFFC00 --oformat binary guest.o -o guest.bin
.intel_syntax noprefix
.equ ROM,     0xFFFFFC00
.equ RAM,     0x8000                  # where the 64-bit part is copied to
.equ HIGH,    0xFFFFFFFF80000000      # where it runs
.equ PML4,    0x1000
.equ PDPT,    0x2000
.equ PD_LOW,  0x3000
.equ PD_TOP,  0x4000
.equ PML4_B,  0x5000
.equ IDT,     0x6000
.equ TICKS,   0x7000
.equ FAULTED, 0x40000000              # unmapped until the page fault's handler maps it

.globl _start
_start:
.code16
start16:
    cli
    cld
    .byte 0x2E, 0x66, 0x0F, 0x01, 0x16     # cs: lgdt, 32-bit base
    .word 0xFC00 + (gdtr - _start)
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA                       # far jump into 32-bit code
    .long ROM + (start32 - _start)
    .word 8

.code32
start32:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7F00
    mov edi, PML4
    xor eax, eax
    mov ecx, 0x7000 / 4
    rep stosd
    # Copy the 64-bit part into RAM.
    mov esi, ROM + (start64 - _start)
    mov edi, RAM
    mov ecx, (end64 - start64 + 3) / 4
    rep movsd
    # The low 2 MiB, at 0 and at HIGH; the ROM at the end of the first 4 GiB.
    mov dword ptr [PML4], PDPT + 3
    mov dword ptr [PML4 + 511 * 8], PDPT + 3
    mov dword ptr [PDPT], PD_LOW + 3
    mov dword ptr [PDPT + 3 * 8], PD_TOP + 3
    mov dword ptr [PDPT + 510 * 8], PD_LOW + 3
    mov dword ptr [PD_LOW], 0x83
    mov dword ptr [PD_TOP + 511 * 8], 0xFFE00083
    mov dword ptr [PD_TOP + 503 * 8], 0xFEE0009B   # the local APIC, uncached
    mov eax, cr4
    or eax, 0x20                           # PAE
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xC0000080                    # EFER
    rdmsr
    or eax, 0x101                          # LME, SCE
    wrmsr
    mov eax, cr0
    or eax, 0x80010000                     # PG, WP
    mov cr0, eax
    .byte 0xEA
    .long RAM
    .word 24

.code64
start64:
    movabs rax, offset HIGH + RAM + (upper - start64)
    jmp rax
upper:
    movabs rsp, offset HIGH + 0x7F00
    # Gates of the page fault (14) and the timer (32).
    lea rdi, [rip + fault]
    mov ebx, IDT + 14 * 16
    call gate
    lea rdi, [rip + tick]
    mov ebx, IDT + 32 * 16
    call gate
    lidt [rip + idtr]
    # A fault that is repaired, as a kernel's early page tables are.
    mov eax, FAULTED
    mov dword ptr [rax], 0x12345678
    cmp dword ptr [rax], 0x12345678
    jne failed
    # The local APIC lets the PIC's interrupts through, which firmware would have set up.
    mov eax, 0xFEE00000
    mov dword ptr [rax + 0xF0], 0x1FF      # spurious vector, enabled
    mov dword ptr [rax + 0x350], 0x700     # LINT0: ExtINT
    # Another root of the page tables, without the low half; so the GDT must be above.
    lgdt [rip + gdtr_high]
    mov dword ptr [PML4_B], 0
    mov dword ptr [PML4_B + 511 * 8], PDPT + 3
    mov eax, PML4_B
    mov cr3, rax
    # Timer at about 1 kHz, by the PIC, at vector 32.
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xFE
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 0xA9
    out 0x40, al
    mov al, 4
    out 0x40, al
    movabs rbx, offset HIGH + TICKS
wait:
    sti
    hlt
    cli
    cmp dword ptr [rbx], 5
    jb wait
    # Work: milliseconds where the processor or a translator runs the guest, much more than
    # the test's deadline where a kernel interprets it instruction by instruction.
    mov ecx, 20000000
work:
    dec ecx
    jnz work
    mov al, 0x2A
end:
    out 0xF4, al
    cli                                    # the exit is not immediate
    hlt
    jmp end
failed:
    mov al, 0x01
    jmp end

gate:                                      # rdi: handler, ebx: gate
    mov word ptr [rbx], di
    mov word ptr [rbx + 2], 24
    mov word ptr [rbx + 4], 0x8E00
    shr rdi, 16
    mov word ptr [rbx + 6], di
    shr rdi, 16
    mov dword ptr [rbx + 8], edi
    mov dword ptr [rbx + 12], 0
    ret

fault:
    push rax
    mov rax, cr2
    cmp rax, FAULTED
    jne failed
    mov dword ptr [PDPT + 8], PD_TOP + 3   # FAULTED is the second GiB
    mov dword ptr [PD_TOP], 0x83
    invlpg [rax]
    pop rax
    add rsp, 8                             # the error code
    iretq

tick:
    push rax
    push rbx
    movabs rbx, offset HIGH + TICKS
    inc dword ptr [rbx]
    mov al, 0x20
    out 0x20, al
    pop rbx
    pop rax
    iretq

idtr:
    .word 33 * 16 - 1
    .quad HIGH + IDT
gdtr_high:
    .word 31
    .quad HIGH + RAM + (gdt - start64)
.balign 8
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF               # 8: 32-bit code
    .quad 0x00CF93000000FFFF               # 16: data
    .quad 0x00AF9B000000FFFF               # 24: 64-bit code
end64:


gdtr:
    .word 31
    .long ROM + (gdt - _start)

.org 0x3F0
.code16
reset:
    jmp start16
.org 0x400
