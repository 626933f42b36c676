package twotower

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// connection counts its calls in flight.
type connection struct {
	*grpc.ClientConn
	inFlight atomic.Int32
}

// pool is the connections of a client.
type pool struct {
	connections []*connection
	next        atomic.Uint32
}

func openPool(target string, count int, dial []grpc.DialOption) (*pool, error) {
	p := &pool{}
	for range count {
		conn, err := grpc.NewClient(target, dial...)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.connections = append(p.connections, &connection{ClientConn: conn})
	}
	for _, one := range p.connections {
		one.Connect()
	}
	return p, nil
}

func (p *pool) close() error {
	var all []error
	for _, one := range p.connections {
		all = append(all, one.Close())
	}
	return errors.Join(all...)
}

// pick returns the connection with the fewest calls in flight of those that stand; of equals each in turn. A broken
// one has the fewest calls of all, and would draw every call to itself.
func (p *pool) pick() *connection {
	count := uint32(len(p.connections))
	start := p.next.Add(1)
	var best *connection
	var bestRank, bestInFlight int32
	for i := range count {
		one := p.connections[(start+i)%count]
		rank, inFlight := rankOf(one.GetState()), one.inFlight.Load()
		if best == nil || rank < bestRank || rank == bestRank && inFlight < bestInFlight {
			best, bestRank, bestInFlight = one, rank, inFlight
		}
	}
	return best
}

func rankOf(state connectivity.State) int32 {
	switch state {
	case connectivity.Ready:
		return 0
	case connectivity.Idle, connectivity.Connecting:
		return 1
	default:
		return 2
	}
}

// invoke makes one attempt of a call. Its error is an *Error.
func (p *pool) invoke(ctx context.Context, method string, request, response any) error {
	conn := p.pick()
	conn.inFlight.Add(1)
	defer conn.inFlight.Add(-1)
	return errorOf(conn.Invoke(ctx, method, request, response))
}
