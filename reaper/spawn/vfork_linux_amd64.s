#include "textflag.h"

#define SYS_write	1
#define SYS_clone	56
#define SYS_exit_group	231

// func vfork(steps *step, n, pipe uintptr, report *failure) (pid uintptr)
//
// The child has the memory and the stack of the parent, so it keeps all that it needs
// in registers, and never returns.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-40
	MOVQ	steps+0(FP), R12
	MOVQ	n+8(FP), R13
	MOVQ	pipe+16(FP), R15
	MOVQ	report+24(FP), BX
	MOVQ	$SYS_clone, AX
	MOVQ	$0x4111, DI		// CLONE_VFORK|CLONE_VM|SIGCHLD
	XORQ	SI, SI
	XORQ	DX, DX
	XORQ	R10, R10
	XORQ	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	MOVQ	AX, pid+32(FP)
	RET

child:
	XORQ	R14, R14		// the number of the step
next:
	MOVQ	0(R12), AX
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	MOVQ	32(R12), R10
	MOVQ	40(R12), R8
	XORQ	R9, R9
	SYSCALL
	MOVQ	48(R12), CX		// kind
	MOVQ	56(R12), DX		// x
	CMPQ	CX, $1
	JEQ	done			// it may fail
	CMPQ	CX, $3
	JEQ	compare
	CMPQ	AX, $0xfffffffffffff001
	JCC	failed
	CMPQ	CX, $2
	JNE	done
	MOVQ	AX, (DX)
	JMP	done
compare:
	CMPQ	AX, DX
	JNE	exit
done:
	ADDQ	$64, R12
	INCQ	R14
	CMPQ	R14, R13
	JNE	next
	JMP	exit			// not reached: the last step is execve

failed:
	NEGQ	AX
	MOVQ	R14, 0(BX)
	MOVQ	AX, 8(BX)
	MOVQ	$SYS_write, AX
	MOVQ	R15, DI
	MOVQ	BX, SI
	MOVQ	$16, DX
	SYSCALL
exit:
	MOVQ	$SYS_exit_group, AX
	MOVQ	$253, DI
	SYSCALL
	JMP	exit
