package twotower

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Client calls a twotower server. Make one by Dial, keep it, and share it: all its methods may be called by many
// goroutines at once.
//
// A client that Pin or PinTo returns is a view of the same connections whose calls all go to one release.
type Client struct {
	*core
	release string
}

// core is what a client and its pinned views share.
type core struct {
	pool    *pool
	timeout time.Duration
	retry   Retry
	budget  *budget
	// schemas is nil when features go out by name.
	schemas *schemas
	users   *userCoalescers // nil: every call goes out alone
	scores  *coalescer[*Scores]
	closed  atomic.Bool
}

// Dial makes a client of the server at target, which is what grpc.NewClient takes: "host:port" by DNS, for example.
// It begins to connect and does not wait for that, unless WithReady asks it to wait within ctx.
func Dial(ctx context.Context, target string, opts ...Option) (*Client, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	pool, err := openPool(target, o.connections, o.dialOptions())
	if err != nil {
		return nil, err
	}
	client := &Client{core: &core{pool: pool, timeout: o.timeout, retry: o.retry, budget: newBudget()}}
	if o.dense {
		client.schemas = newSchemas(client.servingInfo)
	}
	if !o.coalescing.off {
		client.users = &userCoalescers{core: client.core, limits: o.coalescing}
		client.scores = &coalescer[*Scores]{limits: o.coalescing, one: client.sendScore, many: client.sendScores}
	}
	if o.ready {
		if err := client.awaitReady(ctx); err != nil {
			return nil, errors.Join(err, client.Close())
		}
	}
	return client, nil
}

// Close ends the connections; calls in flight and later ones fail with ErrClosed. On a pinned view it does nothing:
// the connections belong to the client that Dial made.
func (c *Client) Close() error {
	if c.release != "" || c.closed.Swap(true) {
		return nil
	}
	return c.pool.close()
}

// Pin asks which release is active now and returns a view of the client whose calls all go to it: for one flow of
// several calls, or for as long as the caller likes. Another release may become active meanwhile; when the server
// retires the pinned one at last, the view's calls fail with ErrReleaseNotLoaded, and never get another release.
func (c *Client) Pin(ctx context.Context) (*Client, error) {
	info, err := c.PinTo("").ServingInfo(ctx)
	if err != nil {
		return nil, err
	}
	if info.GetActiveRelease() == "" {
		return nil, &Error{
			Code:    codes.FailedPrecondition,
			Reason:  twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED,
			Message: "the server has no active release",
		}
	}
	return c.PinTo(info.GetActiveRelease()), nil
}

// PinTo returns a view of the client whose calls all go to the named release. "" = no pin. A release that a call names
// itself goes before the pin.
func (c *Client) PinTo(release string) *Client { return &Client{core: c.core, release: release} }

// Release returns the release of the pin; "" = none.
func (c *Client) Release() string { return c.release }

// ServingInfo tells what is served: releases with their schemas and calibration, limits, and what is degraded. A pin
// narrows it to that release.
func (c *Client) ServingInfo(ctx context.Context) (*twotowerv1.GetServingInfoResponse, error) {
	ctx, cancel := c.deadline(ctx, c.timeout)
	defer cancel()
	request := &twotowerv1.GetServingInfoRequest{Release: c.release}
	response := &twotowerv1.GetServingInfoResponse{}
	err := c.call(ctx, twotowerv1.TwoTowerService_GetServingInfo_FullMethodName, request, response)
	return orNil(response, err)
}

// servingInfo is that of all releases, for callers that have set a deadline.
func (c *core) servingInfo(ctx context.Context) (*twotowerv1.GetServingInfoResponse, error) {
	response := &twotowerv1.GetServingInfoResponse{}
	request := &twotowerv1.GetServingInfoRequest{}
	err := c.call(ctx, twotowerv1.TwoTowerService_GetServingInfo_FullMethodName, request, response)
	return response, err
}

// awaitReady returns when the server answers; the error of a context that ended says what the last attempt said.
func (c *core) awaitReady(ctx context.Context) error {
	for failed := 1; ; failed++ {
		_, err := c.servingInfo(ctx)
		var refused *Error
		if !errors.As(err, &refused) || !refused.mayPass() {
			return err
		}
		if !c.retry.pause(ctx, failed, refused) {
			return refused
		}
	}
}

// deadline gives calls that have none the time that is usual for them; 0 = no limit.
func (c *core) deadline(ctx context.Context, usual time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || usual == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, usual)
}

// run is a call that carries features: send writes the request with the orders that it is given (nil = by name) and
// makes the call. releases: those that the request names; "" = routed by the server.
func (c *core) run(ctx context.Context, releases []string, send func(context.Context, *denseOrders) error) error {
	ctx, cancel := c.deadline(ctx, c.timeout)
	defer cancel()
	if c.schemas == nil {
		return send(ctx, nil)
	}
	return c.schemas.run(ctx, releases, func(orders *denseOrders) error { return send(ctx, orders) })
}

// call makes a call that may be made again.
func (c *core) call(ctx context.Context, method string, request, response any) error {
	return c.attempts(ctx, func() error { return c.once(ctx, method, request, response) })
}

// once makes one attempt.
func (c *core) once(ctx context.Context, method string, request, response any) error {
	err := c.pool.invoke(ctx, method, request, response)
	if err != nil && c.closed.Load() {
		return &Error{Code: codes.Canceled, Message: "the client is closed", cause: ErrClosed}
	}
	return err
}

// attempts repeats what fails and may pass.
func (c *core) attempts(ctx context.Context, attempt func() error) error {
	for failed := 1; ; failed++ {
		err := attempt()
		if err == nil {
			c.budget.earn()
			return nil
		}
		var refused *Error
		if !errors.As(err, &refused) || !refused.mayPass() {
			return err
		}
		if failed >= c.retry.Attempts || !c.budget.spend() {
			return err
		}
		if !c.retry.pause(ctx, failed, refused) {
			if ctx.Err() != nil { // the caller gave up during the wait
				return contextError(ctx)
			}
			return err
		}
	}
}

// pinned is the release of a call: its own, else that of the pin.
func (c *Client) pinned(release string) string {
	if release == "" {
		return c.release
	}
	return release
}

func orNil[T any](value *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return value, nil
}

// servedOrNil is a batch that was served, whatever befell some of its entries.
func servedOrNil[T any](served *T, err error) (*T, error) {
	if served != nil {
		return served, nil
	}
	return nil, err
}
