package twotower

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Retry says how often a call that may pass later is tried: UNAVAILABLE, and RESOURCE_EXHAUSTED whose reason is
// OVERLOADED. The n-th wait is uniform in [0, min(MaxBackoff, InitialBackoff · Multiplier^n)], so that callers who
// failed together do not come back together; a wait that the server asks for is added. A wait that would outlast the
// call's deadline is not begun: the last error is returned instead.
//
// A field that is 0 has its default.
type Retry struct {
	// Attempts is the most that are made, the first included; 1 = never again. Default: 4.
	Attempts int
	// InitialBackoff bounds the first wait. Default: 25 ms.
	InitialBackoff time.Duration
	// MaxBackoff bounds every later wait. Default: 1 s.
	MaxBackoff time.Duration
	// Multiplier is how fast the bound grows. Default: 2.
	Multiplier float64
}

func (r Retry) withDefaults() Retry {
	if r.Attempts == 0 {
		r.Attempts = 4
	}
	if r.InitialBackoff == 0 {
		r.InitialBackoff = 25 * time.Millisecond
	}
	if r.MaxBackoff == 0 {
		r.MaxBackoff = time.Second
	}
	if r.Multiplier == 0 {
		r.Multiplier = 2
	}
	return r
}

// bound of the wait after `failed` attempts.
func (r Retry) bound(failed int) time.Duration {
	bound := float64(r.InitialBackoff)
	for range failed - 1 {
		bound *= r.Multiplier
		if bound >= float64(r.MaxBackoff) {
			return r.MaxBackoff
		}
	}
	return min(time.Duration(bound), r.MaxBackoff)
}

// pause waits before the attempt after `failed` ones; false when the wait would outlast the context.
func (r Retry) pause(ctx context.Context, failed int, err *Error) bool {
	wait := err.RetryAfter
	if bound := r.bound(failed); bound > 0 {
		wait += rand.N(bound)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// What a client's retries may add to the load of a server that does not recover: a fifth of the calls that it does
// answer. The reserve lets every caller of a busy program outlive a server that restarts.
const (
	budgetReserve = 2_000
	budgetRatio   = 0.2
)

// budget is the retries that a client has left.
type budget struct {
	mu   sync.Mutex
	left float64
}

func newBudget() *budget { return &budget{left: budgetReserve} }

// earn adds the share of a retry for a call that was answered.
func (b *budget) earn() {
	b.mu.Lock()
	b.left = min(budgetReserve, b.left+budgetRatio)
	b.mu.Unlock()
}

// spend takes one retry; false when none is left.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
