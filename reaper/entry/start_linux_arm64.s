#include "textflag.h"

#define SYS_rt_sigaction	134
#define SYS_rt_sigprocmask	135
#define SYS_prlimit64		261
#define RLIMIT_NOFILE		7

// The fields of atExec.
#define noted	·atExec+0(SB)
#define blocked	·atExec+8(SB)
#define ignored	·atExec+16(SB)
#define early	·atExec+24(SB)
#define nofile	·atExec+32(SB)

// start runs first, on the kernel's stack: RSP points to argc. It must not write to
// the stack, because the runtime reads the arguments from there.
TEXT ·start(SB),NOSPLIT|NOFRAME,$0
	// Block what can wait, and note what was blocked.
	MOVD	$0, R0			// SIG_BLOCK
	MOVD	$·waits(SB), R1
	MOVD	$blocked, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigprocmask, R8
	SVC

	// Note what is ignored.
	MOVD	$0, R12
	MOVD	$1, R13			// the signal
	MOVD	$1, R14			// its bit
look:
	MOVD	R13, R0
	MOVD	$0, R1
	MOVD	$·found(SB), R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigaction, R8
	SVC
	MOVD	·found(SB), R4
	CMP	$1, R4			// SIG_IGN
	BNE	next
	ORR	R14, R12
next:
	LSL	$1, R14
	ADD	$1, R13
	CMP	$65, R13
	BNE	look
	MOVD	R12, ignored

	// Record the signals that come before the runtime has a handler for them.
	MOVD	·records(SB), R15
	BIC	R12, R15		// what is ignored stays so
	MOVD	$1, R13
install:
	TBZ	$0, R15, skip
	MOVD	R13, R0
	MOVD	$·recorder(SB), R1
	MOVD	$0, R2
	MOVD	$8, R3
	MOVD	$SYS_rt_sigaction, R8
	SVC
skip:
	LSR	$1, R15
	ADD	$1, R13
	CMP	$65, R13
	BNE	install

	// Note the limit of descriptors.
	MOVD	$0, R0
	MOVD	$RLIMIT_NOFILE, R1
	MOVD	$0, R2
	MOVD	$nofile, R3
	MOVD	$SYS_prlimit64, R8
	SVC

	MOVD	$1, R4
	MOVD	R4, noted
	MOVD	$0, R0			// the kernel's: no function to call at exit
	JMP	_rt0_arm64_linux(SB)

// record is a signal handler: it notes that the signal came.
TEXT ·record(SB),NOSPLIT|NOFRAME,$0
	SUB	$1, R0
	MOVD	$1, R1
	LSL	R0, R1
	MOVD	$early, R2
again:
	LDAXR	(R2), R3
	ORR	R1, R3
	STLXR	R3, (R2), R4
	CBNZ	R4, again
	RET

// sigreturn is where a handler returns to.
TEXT ·sigreturn(SB),NOSPLIT|NOFRAME,$0
	MOVD	$139, R8		// rt_sigreturn
	SVC
	BRK				// not reached

// A struct sigaction: handler, SA_RESTORER|SA_ONSTACK|SA_RESTART, restorer, all signals.
DATA ·recorder+0(SB)/8, $·record(SB)
DATA ·recorder+8(SB)/8, $0x1c000000
DATA ·recorder+16(SB)/8, $·sigreturn(SB)
DATA ·recorder+24(SB)/8, $-1
GLOBL ·recorder(SB), RODATA|NOPTR, $32

#include "signals.h"
GLOBL ·found(SB), NOPTR, $32
