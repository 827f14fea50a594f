# A guest of one sector for the tests: prints a banner on the serial port, echoes
# what is typed, powers off when the power button is pressed, unless the byte at
# 509 is set: then it is deaf to the button.
#
# guest.bin is made by:
#   as --32 guest.S -o guest.o && ld -m elf_i386 -Ttext=0x7C00 --oformat binary guest.o -o guest.bin
.intel_syntax noprefix
.code16
.globl _start
_start:
    ljmp 0, offset begin
begin:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7C00
    mov si, offset banner
    call print
    # PM1 enable register of ICH9's ACPI block, where the firmware puts it: power button.
    mov dx, 0x602
    in ax, dx
    or ax, 0x100
    out dx, ax
main:
    mov dx, 0x3FD
    in al, dx
    test al, 1
    jz button
    mov dx, 0x3F8
    in al, dx
    call putc
    jmp main
button:
    mov dx, 0x600
    in ax, dx
    test ax, 0x100
    jz sleep
    mov ax, 0x100
    out dx, ax
    cmp byte ptr deaf, 0
    jne sleep
    mov si, offset bye
    call print
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
sleep:
    sti
    hlt
    cli
    jmp main

print:
    lodsb
    test al, al
    jz 1f
    call putc
    jmp print
1:  ret

putc:
    mov bl, al
    mov dx, 0x3FD
1:  in al, dx
    test al, 0x20
    jz 1b
    mov al, bl
    mov dx, 0x3F8
    out dx, al
    ret

banner: .asciz "test guest is up\r\n"
bye:    .asciz "bye\r\n"
.org 509
deaf:   .byte 0
        .byte 0x55, 0xAA
