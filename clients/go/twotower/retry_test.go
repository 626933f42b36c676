package twotower

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

var (
	unavailable = status.Error(codes.Unavailable, "restarting")
	overloaded  = refusal(codes.ResourceExhausted, twotowerv1.ErrorReason_ERROR_REASON_OVERLOADED)
	served      = &twotowerv1.GetUserEmbeddingResponse{Embedding: &twotowerv1.Embedding{Values: []float32{1}, Release: "r"}}
	someone     = &User{ID: "u1", Features: map[string]float64{"age": 34}}
)

func TestWhatMayPassIsTriedAgain(t *testing.T) {
	for _, refused := range []error{
		unavailable,
		overloaded,
		refusal(codes.Unavailable, twotowerv1.ErrorReason_ERROR_REASON_NOT_READY),
		refusal(codes.Unavailable, twotowerv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE),
	} {
		for _, coalescing := range []Option{WithoutCoalescing(), WithCoalescing(Coalescing{})} {
			server := serve(t, sequence(refused, refused, served))
			embedding, err := dial(t, server.target, fast, coalescing).EmbedUser(t.Context(), someone)
			if err != nil || embedding.Release != "r" {
				t.Errorf("after %v: %v", refused, err)
			}
			calls := server.received()
			if len(calls) != 3 || !proto.Equal(calls[0].request, calls[2].request) {
				t.Errorf("after %v: %d calls", refused, len(calls))
			}
		}
	}
}

func TestWhatCannotPassIsNotTriedAgain(t *testing.T) {
	for _, refused := range []error{
		status.Error(codes.ResourceExhausted, "received message larger than max (5000000 vs. 4194304)"),
		refusal(codes.InvalidArgument, twotowerv1.ErrorReason_ERROR_REASON_LIMIT_EXCEEDED),
		refusal(codes.FailedPrecondition, twotowerv1.ErrorReason_ERROR_REASON_SCHEMA_MISMATCH),
		refusal(codes.FailedPrecondition, twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED),
		refusal(codes.DeadlineExceeded, twotowerv1.ErrorReason_ERROR_REASON_DEADLINE),
		refusal(codes.Internal, twotowerv1.ErrorReason_ERROR_REASON_INTERNAL),
		status.Error(codes.Aborted, "no"),
	} {
		server := serve(t, sequence(refused, served))
		_, err := dial(t, server.target, fast).EmbedUser(t.Context(), someone)
		if status.Code(err) != status.Code(refused) {
			t.Errorf("%v became %v", refused, err)
		}
		if calls := len(server.received()); calls != 1 {
			t.Errorf("after %v: %d calls", refused, calls)
		}
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	for _, attempts := range []int{1, 2, 5} {
		server := serve(t, sequence(overloaded))
		retry := WithRetry(Retry{Attempts: attempts, InitialBackoff: 1, MaxBackoff: 1})
		_, err := dial(t, server.target, retry).EmbedUser(t.Context(), someone)
		if !errors.Is(err, ErrOverloaded) || len(server.received()) != attempts {
			t.Errorf("%d attempts of %d: %v", len(server.received()), attempts, err)
		}
	}
}

func TestAWaitThatOutlastsTheDeadlineIsNotBegun(t *testing.T) {
	server := serve(t, sequence(refusal(
		codes.ResourceExhausted, twotowerv1.ErrorReason_ERROR_REASON_OVERLOADED, retryAfter(time.Hour),
	)))
	_, err := dial(t, server.target).EmbedUser(t.Context(), someone)
	var refused *Error
	if !errors.As(err, &refused) || refused.RetryAfter != time.Hour || len(server.received()) != 1 {
		t.Error(err)
	}
}

func TestACallerMayGiveUpDuringAWait(t *testing.T) {
	server := serve(t, sequence(refusal(
		codes.ResourceExhausted, twotowerv1.ErrorReason_ERROR_REASON_OVERLOADED, retryAfter(time.Hour),
	)))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := dial(t, server.target, WithTimeout(0)).EmbedUser(ctx, someone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	retry := Retry{}.withDefaults()
	for failed, want := range []time.Duration{25, 50, 100, 200, 400, 800, 1000, 1000} {
		if got := retry.bound(failed + 1); got != want*time.Millisecond {
			t.Errorf("wait %d is bounded by %v, want %v", failed+1, got, want*time.Millisecond)
		}
	}
}

func TestTheBudgetEndsRetriesThatHelpNobody(t *testing.T) {
	b := newBudget()
	for range budgetReserve {
		if !b.spend() {
			t.Fatal("the reserve is not there")
		}
	}
	if b.spend() {
		t.Error("there is no end")
	}
	for range 5 {
		b.earn()
	}
	if !b.spend() || b.spend() {
		t.Error("five calls that were answered earn one retry")
	}

	server := serve(t, sequence(overloaded))
	client := dial(t, server.target, fast)
	client.budget.left = 1
	if _, err := client.EmbedUser(t.Context(), someone); !errors.Is(err, ErrOverloaded) {
		t.Error(err)
	}
	if calls := len(server.received()); calls != 2 {
		t.Errorf("%d calls, want the first and one retry", calls)
	}
}

func TestSwitchesAreSentOnce(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Releases) error{
		"activate": func(ctx context.Context, r *Releases) error { _, err := r.Activate(ctx, "b", "a"); return err },
		"rollback": func(ctx context.Context, r *Releases) error { _, err := r.Rollback(ctx, "b"); return err },
		"split": func(ctx context.Context, r *Releases) error {
			_, err := r.SetTrafficSplit(ctx, map[string]float64{"a": 1})
			return err
		},
	} {
		for _, refused := range []error{unavailable, overloaded} {
			server := serve(t, sequence(refused))
			if err := call(t.Context(), dial(t, server.target, fast).Releases()); status.Code(err) != status.Code(refused) {
				t.Errorf("%s: %v", name, err)
			}
			if calls := len(server.received()); calls != 1 {
				t.Errorf("%s after %v: %d calls", name, refused, calls)
			}
		}
	}
}

func TestReadsAndChangesOfTheCatalogAreTriedAgain(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Client) error{
		"ListReleases": func(ctx context.Context, c *Client) error { _, err := c.Releases().List(ctx); return err },
		"LoadRelease":  func(ctx context.Context, c *Client) error { _, err := c.Releases().Load(ctx, "b"); return err },
		"UpsertItems": func(ctx context.Context, c *Client) error {
			_, err := c.UpsertItems(ctx, []*ItemChange{{Item: &Item{ID: "i1"}}})
			return err
		},
		"DeleteItems":    func(ctx context.Context, c *Client) error { _, err := c.DeleteItems(ctx, []string{"i1"}); return err },
		"GetServingInfo": func(ctx context.Context, c *Client) error { _, err := c.ServingInfo(ctx); return err },
	} {
		server := serve(t, sequence(unavailable))
		if err := call(t.Context(), dial(t, server.target, fast)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if calls := len(server.received()); calls != 4 {
			t.Errorf("%s: %d calls", name, calls)
		}
	}
}
