package twotower

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Coalescing says how calls of EmbedUser, GetUserEmbedding and Score that are made at the same time are sent together,
// as BatchGetUserEmbeddings and BatchScore. The call costs a server far more than the entry does, so this multiplies
// what it serves; the callers notice nothing else.
//
// Nothing waits for company. A call that finds no batch in flight is sent at once. What comes meanwhile leaves together
// when a batch returns, or before, beside those in flight, once it is as much work as makes a call worth its cost (32
// users, or a Score of 500), or has waited 10 ms for a slow one. Each caller keeps its own context, answer and error: a
// caller that gives up leaves at once and holds nobody, an entry that is refused fails alone, and a batch waits no
// longer than the longest of its callers would. Calls with outgoing gRPC metadata of their own, and very large ones, go
// out alone.
//
// A field that is 0 has its default.
type Coalescing struct {
	// Entries is the most calls that leave together. Default: 128.
	Entries int
	// InFlight is the most batches that are in flight for one RPC and release at a time. Default: one for each
	// connection.
	InFlight int

	off bool
}

// Work is counted in users whose vectors are computed; scoring 16 candidates takes about as long.
const (
	candidatesPerUser = 16
	// worthACall is the work beside which the cost of a call is small: a call costs as much as about 16 users.
	worthACall = 32
	// Of one batch, some milliseconds and far from the limits of a message: larger ones would gain nothing, and hold up
	// the small calls in them.
	batchBytes = 1 << 20
	batchWork  = 512
	// An entry of more than this share of a batch goes out alone.
	aloneShare = 4
	// patience is how long a call waits for batches in flight while it could leave beside them.
	patience = 10 * time.Millisecond
)

func (c Coalescing) withDefaults(connections int) Coalescing {
	if c.Entries == 0 {
		c.Entries = 128
	}
	if c.InFlight == 0 {
		c.InFlight = connections
	}
	return c
}

// entry is a call that waits for others, or travels with them.
type entry[T any] struct {
	ctx     context.Context
	request encoded
	work    int
	// answered has room for the answer: it may come after its caller has gone.
	answered chan answer[T]
	// gone: the caller has given up. batch: it travels in. Both are guarded by the coalescer's lock.
	gone  bool
	batch *batch[T]
}

// answer is what an entry gets. alone: the batch was refused as a whole, perhaps because of another entry, and nothing
// is known of this one.
type answer[T any] struct {
	value T
	err   error
	alone bool
}

// batch is entries that travel together.
type batch[T any] struct {
	ctx      context.Context
	cancel   context.CancelFunc
	entries  []*entry[T]
	requests []encoded
	// callers who still wait; without any the call is cancelled. Guarded by the coalescer's lock.
	callers int
}

// coalescer puts calls of one kind together.
type coalescer[T any] struct {
	limits Coalescing
	// one makes the call of a single entry, many that of several; many returns an answer for each.
	one  func(ctx context.Context, request encoded) (T, error)
	many func(ctx context.Context, requests []encoded) ([]answer[T], error)

	mu       sync.Mutex
	inFlight int
	waiting  []*entry[T]
	// work of what waits, callers who have given up included.
	work int
}

// do sends a request and waits for its answer. candidates: of a Score.
func (c *coalescer[T]) do(ctx context.Context, request encoded, candidates int) (T, error) {
	work := 1 + candidates/candidatesPerUser
	if len(request) > batchBytes/aloneShare || work > batchWork/aloneShare || hasMetadata(ctx) {
		return c.one(ctx, request)
	}
	own := &entry[T]{ctx: ctx, request: request, work: work, answered: make(chan answer[T], 1)}
	if c.join(own) {
		runtime.Gosched() // goroutines that are ready to call may join; without any it costs nothing
		first := c.take()
		if first != nil && len(first.entries) == 1 && first.entries[0] == own {
			value, err := c.one(first.ctx, request)
			first.cancel()
			if next := c.take(); next != nil {
				go c.fly(next)
			}
			return value, err
		}
		go c.fly(first)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case got := <-own.answered:
			if got.alone {
				return c.one(ctx, request)
			}
			return got.value, got.err
		case <-timer.C:
			if c.isHeld(own) {
				go c.fly(c.take())
			}
		case <-ctx.Done():
			c.leave(own)
			var none T
			return none, contextError(ctx)
		}
	}
}

// join lets an entry wait; true = it leaves now, in a batch that the caller takes.
func (c *coalescer[T]) join(own *entry[T]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, own)
	c.work += own.work
	leaves := c.inFlight == 0 || c.inFlight < c.limits.InFlight && c.work >= worthACall
	if leaves {
		c.inFlight++
	}
	return leaves
}

// isHeld says whether an entry still waits while another batch may leave; the caller takes it then.
func (c *coalescer[T]) isHeld(own *entry[T]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := own.batch == nil && c.inFlight < c.limits.InFlight
	if held {
		c.inFlight++
	}
	return held
}

// fly sends a batch, and then whatever waits, until nothing does.
func (c *coalescer[T]) fly(next *batch[T]) {
	for ; next != nil; next = c.take() {
		c.carry(next)
	}
}

// carry makes the call of one batch and answers its entries.
func (c *coalescer[T]) carry(b *batch[T]) {
	defer b.cancel()
	if len(b.entries) == 1 {
		value, err := c.one(b.ctx, b.requests[0])
		b.entries[0].answered <- answer[T]{value: value, err: err}
		return
	}
	answers, err := c.many(b.ctx, b.requests)
	for i, one := range b.entries {
		if err != nil {
			one.answered <- answer[T]{err: err, alone: mayBeAnothers(err)}
			continue
		}
		one.answered <- answers[i]
	}
}

// take makes a batch of what waits. nil = nothing does, and the place in flight is given up.
func (c *coalescer[T]) take() *batch[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &batch[T]{}
	bytes, work, taken := 0, 0, 0
	for _, one := range c.waiting {
		if !one.gone {
			bytes += len(one.request)
			work += one.work
			if b.callers == c.limits.Entries || b.callers > 0 && (bytes > batchBytes || work > batchWork) {
				break
			}
			one.batch = b
			b.entries = append(b.entries, one)
			b.requests = append(b.requests, one.request)
			b.callers++
		}
		c.work -= one.work
		taken++
	}
	left := copy(c.waiting, c.waiting[taken:])
	clear(c.waiting[left:])
	c.waiting = c.waiting[:left]
	if b.callers == 0 {
		c.inFlight--
		return nil
	}
	b.ctx, b.cancel = batchContext(b.entries)
	return b
}

// leave is a caller who gives up.
func (c *coalescer[T]) leave(own *entry[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own.gone = true
	if b := own.batch; b != nil {
		if b.callers--; b.callers == 0 {
			b.cancel()
		}
	}
}

// batchContext ends with the last of the callers' deadlines. The values, such as a trace, are those of the first.
func batchContext[T any](entries []*entry[T]) (context.Context, context.CancelFunc) {
	first := entries[0].ctx
	if len(entries) == 1 {
		return context.WithCancel(first)
	}
	var last time.Time
	for _, one := range entries {
		deadline, ok := one.ctx.Deadline()
		if !ok {
			return context.WithCancel(context.WithoutCancel(first))
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return context.WithDeadline(context.WithoutCancel(first), last)
}

// mayBeAnothers says whether a batch may have been refused because of one of its entries, or of their number.
func mayBeAnothers(err error) bool {
	var refused *Error
	if !errors.As(err, &refused) || refused.mayPass() {
		return false
	}
	switch refused.Code {
	case codes.InvalidArgument, codes.ResourceExhausted, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

// hasMetadata: such as credentials of the caller's own, which must not carry other calls.
func hasMetadata(ctx context.Context) bool {
	_, ok := metadata.FromOutgoingContext(ctx)
	return ok
}
