// Sets of signals: bit n-1 is signal n.

// What start blocks: every signal but KILL and STOP, which cannot be blocked; the
// ones that the processor raises, and SYS (ILL, TRAP, BUS, FPE, SEGV, STKFLT, SYS);
// CHLD, URG, PROF, and 32 to 34, which the runtime needs.
DATA ·waits+0(SB)/8, $0xfffffffc3bba7a27
GLOBL ·waits(SB), RODATA|NOPTR, $8

// What record handles at first: HUP, INT, QUIT, TERM, CONT, TSTP, TTIN, TTOU.
DATA ·records+0(SB)/8, $0x00000000003a4007
GLOBL ·records(SB), RODATA|NOPTR, $8
