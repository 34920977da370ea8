#include "textflag.h"

#define SYS_write	64
#define SYS_exit_group	94
#define SYS_clone	220

// func vfork(steps *step, n, pipe uintptr, report *failure) (pid uintptr)
//
// The child has the memory and the stack of the parent, so it keeps all that it needs
// in registers, and never returns.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-40
	MOVD	steps+0(FP), R19
	MOVD	n+8(FP), R20
	MOVD	pipe+16(FP), R21
	MOVD	report+24(FP), R22
	MOVD	$0x4111, R0		// CLONE_VFORK|CLONE_VM|SIGCHLD
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, child
	MOVD	R0, pid+32(FP)
	RET

child:
	MOVD	$0, R23			// the number of the step
next:
	MOVD	0(R19), R8
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	$0, R5
	SVC
	MOVD	48(R19), R9		// kind
	MOVD	56(R19), R10		// x
	CMP	$1, R9
	BEQ	done			// it may fail
	CMP	$3, R9
	BEQ	compare
	CMN	$4095, R0
	BCS	failed
	CMP	$2, R9
	BNE	done
	MOVD	R0, (R10)
	B	done
compare:
	CMP	R10, R0
	BNE	exit
done:
	ADD	$64, R19
	ADD	$1, R23
	CMP	R20, R23
	BNE	next
	B	exit			// not reached: the last step is execve

failed:
	NEG	R0, R0
	MOVD	R23, 0(R22)
	MOVD	R0, 8(R22)
	MOVD	R21, R0
	MOVD	R22, R1
	MOVD	$16, R2
	MOVD	$SYS_write, R8
	SVC
exit:
	MOVD	$253, R0
	MOVD	$SYS_exit_group, R8
	SVC
	B	exit
