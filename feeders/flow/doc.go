// Package flow has the rules of a feeder, and no broker in it: how much is taken,
// in which order it goes to the pool, what each answer means to the broker, when an
// attempt is repeated, what becomes of a message that comes twice, and how all of it
// ends. docs/feeders.md says what the pool may rely on.
//
// A Flow is one loop, on one goroutine, which owns all state. Everything that may
// wait runs beside it: each call of the broker on a goroutine of its own, and the
// link's reader and writer. What they bring comes to the loop through two channels,
// and is dealt with from top to bottom. So the loop never waits for a broker, and
// all of it runs under testing/synctest.
//
//	taken -> waiting -> open -> settling -> gone
//	             ^        |
//	             +- held <+ (failed, another attempt)
//
// A broker is a package that implements Broker and Session, which know nothing of
// pools. How they fit the brokers:
//
//	               Pull                     Ack         Return          Dead               Delayed              Keep
//	redis list     LMOVE, BLMOVE            LREM        LMOVE back      RPUSH, LREM        a sorted set         a key that expires
//	redis stream   XREADGROUP, XAUTOCLAIM   XACK        XCLAIM          XADD, XACK         (held)               XCLAIM JUSTID
//	amqp           what consume has pushed  ack         nack, requeue   nack, or publish   a queue with a TTL   (heartbeat)
//	kafka          PollRecords              commit      (nothing)       produce            a topic, if named    (heartbeat)
//	postgres       SKIP LOCKED              DELETE      locked_until    state='dead'       run_at               locked_until
//	nats           Fetch                    Ack         Nak             publish, Term      NakWithDelay         InProgress
package flow
