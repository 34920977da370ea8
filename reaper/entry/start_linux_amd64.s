#include "textflag.h"

#define SYS_rt_sigaction	13
#define SYS_rt_sigprocmask	14
#define SYS_prlimit64		302
#define RLIMIT_NOFILE		7

// The fields of atExec.
#define noted	·atExec+0(SB)
#define blocked	·atExec+8(SB)
#define ignored	·atExec+16(SB)
#define early	·atExec+24(SB)
#define nofile	·atExec+32(SB)

// start runs first, on the kernel's stack: SP points to argc. It must not write to
// the stack, because the runtime reads the arguments from there.
TEXT ·start(SB),NOSPLIT|NOFRAME,$0
	// Block what can wait, and note what was blocked.
	MOVQ	$SYS_rt_sigprocmask, AX
	MOVQ	$0, DI			// SIG_BLOCK
	LEAQ	·waits(SB), SI
	LEAQ	blocked, DX
	MOVQ	$8, R10
	SYSCALL

	// Note what is ignored.
	XORQ	R12, R12
	MOVQ	$1, R13
look:
	MOVQ	$SYS_rt_sigaction, AX
	MOVQ	R13, DI
	XORQ	SI, SI
	LEAQ	·found(SB), DX
	MOVQ	$8, R10
	SYSCALL
	CMPQ	·found(SB), $1		// SIG_IGN
	JNE	next
	LEAQ	-1(R13), CX
	BTSQ	CX, R12
next:
	INCQ	R13
	CMPQ	R13, $65
	JNE	look
	MOVQ	R12, ignored

	// Record the signals that come before the runtime has a handler for them.
	MOVQ	$1, R13
install:
	MOVQ	·records(SB), AX
	LEAQ	-1(R13), CX
	BTQ	CX, AX
	JCC	skip
	BTQ	CX, R12
	JCS	skip			// it stays ignored
	MOVQ	$SYS_rt_sigaction, AX
	MOVQ	R13, DI
	LEAQ	·recorder(SB), SI
	XORQ	DX, DX
	MOVQ	$8, R10
	SYSCALL
skip:
	INCQ	R13
	CMPQ	R13, $65
	JNE	install

	// Note the limit of descriptors.
	MOVQ	$SYS_prlimit64, AX
	XORQ	DI, DI
	MOVQ	$RLIMIT_NOFILE, SI
	XORQ	DX, DX
	LEAQ	nofile, R10
	SYSCALL

	MOVQ	$1, noted
	XORQ	DX, DX			// the kernel's: no function to call at exit
	JMP	_rt0_amd64_linux(SB)

// record is a signal handler: it notes that the signal came.
TEXT ·record(SB),NOSPLIT|NOFRAME,$0
	LEAQ	-1(DI), CX
	MOVQ	$1, AX
	SHLQ	CX, AX
	LOCK
	ORQ	AX, early
	RET

// sigreturn is where a handler returns to.
TEXT ·sigreturn(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$15, AX			// rt_sigreturn
	SYSCALL
	INT	$3			// not reached

// A struct sigaction: handler, SA_RESTORER|SA_ONSTACK|SA_RESTART, restorer, all signals.
DATA ·recorder+0(SB)/8, $·record(SB)
DATA ·recorder+8(SB)/8, $0x1c000000
DATA ·recorder+16(SB)/8, $·sigreturn(SB)
DATA ·recorder+24(SB)/8, $-1
GLOBL ·recorder(SB), RODATA|NOPTR, $32

#include "signals.h"
GLOBL ·found(SB), NOPTR, $32
