package twotower

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// mirror answers every entry by its own user id: the embedding holds the age, the release names the id, and a user
// "bad" is refused. Calls that `holds` says true of wait for `open`, or for their end.
type mirror struct {
	*scripted
	open  chan struct{}
	begun chan proto.Message
}

func serveMirror(t *testing.T, holds func(proto.Message) bool) *mirror {
	m := &mirror{open: make(chan struct{}), begun: make(chan proto.Message, 1000)}
	m.scripted = serve(t, func(ctx context.Context, request proto.Message) (proto.Message, error) {
		m.begun <- request
		if holds(request) {
			select {
			case <-m.open:
			case <-ctx.Done():
				return nil, status.FromContextError(ctx.Err()).Err()
			}
		}
		return mirrored(request)
	})
	return m
}

// first says true of the lone call of a user.
func first(of ...string) func(proto.Message) bool {
	return func(request proto.Message) bool {
		single, ok := request.(*twotowerv1.GetUserEmbeddingRequest)
		return ok && len(of) > 0 && single.User.UserId == of[0]
	}
}

func mirrored(request proto.Message) (proto.Message, error) {
	invalid := twotowerv1.ErrorReason_ERROR_REASON_NO_KNOWN_FEATURE
	switch request := request.(type) {
	case *twotowerv1.GetUserEmbeddingRequest:
		if request.User.UserId == "bad" {
			return nil, refusal(codes.InvalidArgument, invalid)
		}
		return &twotowerv1.GetUserEmbeddingResponse{Embedding: mirroredUser(request.User)}, nil
	case *twotowerv1.BatchGetUserEmbeddingsRequest:
		response := &twotowerv1.BatchGetUserEmbeddingsResponse{}
		for i, user := range request.Users {
			embedding := mirroredUser(user)
			if user.UserId == "bad" {
				embedding = &twotowerv1.Embedding{}
				response.Problems = append(response.Problems, &twotowerv1.Problem{
					Index: uint32(i), Code: int32(codes.InvalidArgument), Reason: invalid, Message: "NO_KNOWN_FEATURE: no",
					Field: fmt.Sprintf("users[%d].features[x]", i),
				})
			}
			response.Embeddings = append(response.Embeddings, embedding)
			response.Releases = append(response.Releases, embedding.Release)
			response.ReleaseIndices = append(response.ReleaseIndices, uint32(i))
		}
		return response, nil
	case *twotowerv1.ScoreRequest:
		return mirroredScore(request), nil
	case *twotowerv1.BatchScoreRequest:
		response := &twotowerv1.BatchScoreResponse{}
		for i, one := range request.Requests {
			if one.User.UserId == "bad" {
				response.Problems = append(response.Problems, &twotowerv1.Problem{
					Index: uint32(i), Code: int32(codes.InvalidArgument), Reason: invalid, Message: "NO_KNOWN_FEATURE: no",
					Field: fmt.Sprintf("requests[%d].user.features[x]", i),
				})
			}
			response.Responses = append(response.Responses, mirroredScore(one))
		}
		return response, nil
	}
	return nil, status.Error(codes.Unimplemented, "")
}

func mirroredUser(user *twotowerv1.User) *twotowerv1.Embedding {
	return &twotowerv1.Embedding{Values: []float32{float32(user.Features["age"])}, Release: user.UserId}
}

func mirroredScore(request *twotowerv1.ScoreRequest) *twotowerv1.ScoreResponse {
	return &twotowerv1.ScoreResponse{
		Scores: make([]float32, len(request.ItemKeys)), Release: request.User.UserId + "@" + request.Release,
	}
}

func user(id string, age float64) *User {
	return &User{ID: id, Features: map[string]float64{"age": age}}
}

// caller is a call that goes on.
type caller struct {
	embedding *UserEmbedding
	err       error
	done      chan struct{}
}

func embed(ctx context.Context, client *Client, user *User, opts ...CallOption) *caller {
	c := &caller{done: make(chan struct{})}
	go func() {
		c.embedding, c.err = client.EmbedUser(ctx, user, opts...)
		close(c.done)
	}()
	return c
}

// waiting blocks until so many calls wait to travel.
func waiting(client *Client, o callOptions, count int) {
	for c := client.users.of(o); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		found := len(c.waiting)
		c.mu.Unlock()
		if found == count {
			return
		}
	}
}

// alone keeps calls waiting while one is in flight: a further batch never leaves beside it.
var alone = WithCoalescing(Coalescing{InFlight: 1})

func TestALoneCallIsACallOfItsOwn(t *testing.T) {
	server := serveMirror(t, first())
	client := dial(t, server.target)
	for age := range 3 {
		embedding, err := client.EmbedUser(t.Context(), user("u1", float64(age)))
		if err != nil || embedding.Values[0] != float32(age) {
			t.Fatal(embedding, err)
		}
		if _, err := client.Score(t.Context(), &ScoreRequest{User: user("u1", 1), ItemIDs: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range server.methods() {
		want := []string{
			twotowerv1.TwoTowerService_GetUserEmbedding_FullMethodName, twotowerv1.TwoTowerService_Score_FullMethodName,
		}[i%2]
		if name != want {
			t.Errorf("call %d was %s", i, name)
		}
	}
}

func TestCallsThatComeWhileOneIsInFlightLeaveTogether(t *testing.T) {
	server := serveMirror(t, first("first"))
	client := dial(t, server.target, alone)
	callers := []*caller{embed(t.Context(), client, user("first", 0))}
	<-server.begun
	for age := range 20 {
		callers = append(callers, embed(t.Context(), client, user(fmt.Sprint("u", age), float64(age))))
	}
	callers = append(callers, embed(t.Context(), client, user("bad", 1)))
	waiting(client, callOptions{}, 21)
	close(server.open)
	for _, one := range callers {
		<-one.done
	}
	for age, one := range callers[1:21] {
		if one.err != nil || one.embedding.Values[0] != float32(age) || one.embedding.Release != fmt.Sprint("u", age) {
			t.Errorf("user %d: %v, %v", age, one.embedding, one.err)
		}
	}
	var refused *Error
	if err := callers[21].err; !errors.As(err, &refused) || !errors.Is(err, ErrNoKnownFeature) {
		t.Error(err)
	} else if refused.Field != "user.features[x]" || refused.Message != "no" || refused.Code != codes.InvalidArgument {
		t.Errorf("%+v", refused)
	}
	calls := server.received()
	if len(calls) != 2 || len(calls[1].request.(*twotowerv1.BatchGetUserEmbeddingsRequest).Users) != 21 {
		t.Error(server.methods())
	}
}

func TestScoresLeaveTogetherWithReleasesOfTheirOwn(t *testing.T) {
	server := serveMirror(t, func(request proto.Message) bool {
		_, ok := request.(*twotowerv1.ScoreRequest)
		return ok
	})
	client := dial(t, server.target, alone)
	score := func(id, release string) chan string {
		done := make(chan string, 1)
		go func() {
			found, err := client.PinTo(release).Score(t.Context(), &ScoreRequest{User: user(id, 1), ItemIDs: []string{"a", "b"}})
			var refused *Error
			if errors.As(err, &refused) {
				done <- refused.Field
				return
			}
			done <- fmt.Sprintf("%s%d%v", found.Release, len(found.Scores), found.ItemIDs)
		}()
		return done
	}
	one := score("u0", "")
	<-server.begun
	others := []chan string{score("u1", "r1"), score("u2", "r2"), score("u3", ""), score("bad", "r1")}
	for client.scores.waitingCount() < 4 {
		time.Sleep(time.Millisecond)
	}
	close(server.open)
	for i, want := range []string{"u0@2[a b]", "u1@r12[a b]", "u2@r22[a b]", "u3@2[a b]", "user.features[x]"} {
		if got := <-append([]chan string{one}, others...)[i]; got != want {
			t.Errorf("caller %d got %q, want %q", i, got, want)
		}
	}
	if calls := server.received(); len(calls) != 2 {
		t.Error(server.methods())
	}
}

func (c *coalescer[T]) waitingCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

func TestUsersOfDifferentReleasesAndCacheModesTravelApart(t *testing.T) {
	server := serveMirror(t, first("first"))
	client := dial(t, server.target, alone)
	options := []callOptions{{}, {release: "r1"}, {cacheMode: CacheBypass}}
	var callers []*caller
	for _, o := range options {
		callers = append(callers, embed(t.Context(), client, user("first", 0), AtRelease(o.release), UseCache(o.cacheMode)))
		<-server.begun
		for age := range 3 {
			one := user("u", float64(age))
			callers = append(callers, embed(t.Context(), client, one, AtRelease(o.release), UseCache(o.cacheMode)))
		}
	}
	for _, o := range options {
		waiting(client, o, 3)
	}
	close(server.open)
	for _, one := range callers {
		if <-one.done; one.err != nil {
			t.Error(one.err)
		}
	}
	seen := map[callOptions]int{}
	for _, call := range server.received() {
		if batch, ok := call.request.(*twotowerv1.BatchGetUserEmbeddingsRequest); ok {
			seen[callOptions{batch.Release, batch.CacheMode}] += len(batch.Users)
		}
	}
	for _, o := range options {
		if seen[o] != 3 {
			t.Errorf("%+v: %d users", o, seen[o])
		}
	}
}

func TestACallerThatGivesUpLeavesAtOnceAndHoldsNobody(t *testing.T) {
	server := serveMirror(t, func(request proto.Message) bool { return true })
	client := dial(t, server.target, alone)
	one := embed(t.Context(), client, user("first", 0))
	<-server.begun
	ctx, cancel := context.WithCancel(t.Context())
	waits, stays := embed(ctx, client, user("waits", 1)), embed(t.Context(), client, user("stays", 2))
	waiting(client, callOptions{}, 2)
	cancel() // while nothing has come back
	<-waits.done
	if !errors.Is(waits.err, context.Canceled) {
		t.Error(waits.err)
	}
	close(server.open)
	<-one.done
	if <-stays.done; stays.err != nil || stays.embedding.Release != "stays" {
		t.Error(stays.embedding, stays.err)
	}
	for _, call := range server.received()[1:] {
		if strings.Contains(fmt.Sprint(call.request), "waits") {
			t.Error("the one who left was sent")
		}
	}
}

func TestACallerThatGivesUpInFlightHoldsNobody(t *testing.T) {
	server := serveMirror(t, func(request proto.Message) bool {
		_, batch := request.(*twotowerv1.BatchGetUserEmbeddingsRequest)
		return batch || first("first")(request)
	})
	client := dial(t, server.target, alone)
	one := embed(t.Context(), client, user("first", 0))
	<-server.begun
	ctx, cancel := context.WithCancel(t.Context())
	leaves, stays := embed(ctx, client, user("leaves", 1)), embed(t.Context(), client, user("stays", 2))
	waiting(client, callOptions{}, 2)
	server.open <- struct{}{} // the first alone
	<-one.done
	<-server.begun // both travel
	cancel()
	<-leaves.done
	if !errors.Is(leaves.err, context.Canceled) {
		t.Error(leaves.err)
	}
	close(server.open)
	if <-stays.done; stays.err != nil || stays.embedding.Release != "stays" {
		t.Error(stays.embedding, stays.err)
	}
}

func TestABatchThatNobodyWaitsForIsCancelled(t *testing.T) {
	ended := make(chan error, 1)
	server := serve(t, func(ctx context.Context, request proto.Message) (proto.Message, error) {
		if batch, ok := request.(*twotowerv1.BatchGetUserEmbeddingsRequest); ok && len(batch.Users) == 2 {
			<-ctx.Done()
			ended <- ctx.Err()
		}
		return mirrored(request)
	})
	client := dial(t, server.target, alone)
	c := client.users.of(callOptions{})
	c.inFlight = 1 // as if one were
	ctx, cancel := context.WithCancel(t.Context())
	a, b := embed(ctx, client, user("a", 1)), embed(ctx, client, user("b", 2))
	waiting(client, callOptions{}, 2)
	go c.fly(c.take())
	for len(server.received()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-a.done
	<-b.done
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestABatchWaitsAsLongAsTheLongestOfItsCallers(t *testing.T) {
	server := serveMirror(t, first())
	client := dial(t, server.target, alone, WithTimeout(0))
	c := client.users.of(callOptions{})
	for _, test := range []struct {
		hours []int // 0 = no deadline
		want  float64
	}{{[]int{1, 3, 2}, 3}, {[]int{1, 0}, 0}} {
		c.inFlight = 1
		var callers []*caller
		for _, hours := range test.hours {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if hours > 0 {
				ctx, cancel = context.WithTimeout(ctx, time.Duration(hours)*time.Hour)
			}
			defer cancel()
			callers = append(callers, embed(ctx, client, user("u", 1)))
		}
		waiting(client, callOptions{}, len(test.hours))
		c.fly(c.take())
		for _, one := range callers {
			if <-one.done; one.err != nil {
				t.Error(one.err)
			}
		}
		calls := server.received()
		if got := calls[len(calls)-1].deadline.Hours(); got > test.want || got < test.want-0.1 {
			t.Errorf("of callers with %v hours: %v", test.hours, got)
		}
	}
}

func TestABatchThatIsRefusedAsAWholeIsSentOneByOne(t *testing.T) {
	for _, refused := range []error{
		refusal(codes.InvalidArgument, twotowerv1.ErrorReason_ERROR_REASON_LIMIT_EXCEEDED),
		status.Error(codes.ResourceExhausted, "received message larger than max"),
		refusal(codes.Internal, twotowerv1.ErrorReason_ERROR_REASON_INTERNAL),
	} {
		server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
			if _, ok := request.(*twotowerv1.BatchGetUserEmbeddingsRequest); ok {
				return nil, refused
			}
			return mirrored(request)
		})
		client := dial(t, server.target, alone)
		c := client.users.of(callOptions{})
		c.inFlight = 1
		good, bad := embed(t.Context(), client, user("good", 1)), embed(t.Context(), client, user("bad", 1))
		waiting(client, callOptions{}, 2)
		c.fly(c.take())
		<-good.done
		<-bad.done
		if good.err != nil || good.embedding.Release != "good" || !errors.Is(bad.err, ErrNoKnownFeature) {
			t.Errorf("after %v: %v, %v", refused, good.err, bad.err)
		}
		if calls := len(server.received()); calls != 3 {
			t.Errorf("after %v: %v", refused, server.methods())
		}
	}
}

func TestABatchIsTriedAgainByEachOfItsCallers(t *testing.T) {
	var once sync.Once
	server := serve(t, func(_ context.Context, request proto.Message) (found proto.Message, err error) {
		found, err = mirrored(request)
		once.Do(func() { err = unavailable })
		return found, err
	})
	client := dial(t, server.target, alone, fast)
	c := client.users.of(callOptions{})
	c.inFlight = 1
	a, b := embed(t.Context(), client, user("a", 1)), embed(t.Context(), client, user("b", 2))
	waiting(client, callOptions{}, 2)
	c.fly(c.take())
	<-a.done
	<-b.done
	if a.err != nil || b.err != nil || a.embedding.Release != "a" || b.embedding.Release != "b" {
		t.Error(a.err, b.err)
	}
}

func TestASlowBatchHoldsNobody(t *testing.T) {
	server := serveMirror(t, first("slow"))
	client := dial(t, server.target)
	slow := embed(t.Context(), client, user("slow", 0))
	<-server.begun
	for age := range 3 { // one after the other: too little work to leave beside the slow one at once
		embedding, err := client.EmbedUser(t.Context(), user("quick", float64(age)))
		if err != nil || embedding.Values[0] != float32(age) {
			t.Fatal(err)
		}
	}
	select {
	case <-slow.done:
		t.Error("the slow one came back")
	default:
	}
	close(server.open)
	if <-slow.done; slow.err != nil {
		t.Error(slow.err)
	}
}

func TestMuchWorkLeavesBesideWhatIsInFlight(t *testing.T) {
	server := serveMirror(t, func(proto.Message) bool { return true })
	client := dial(t, server.target, WithCoalescing(Coalescing{InFlight: 2}))
	one := embed(t.Context(), client, user("first", 0))
	<-server.begun
	var callers []*caller
	for range worthACall {
		callers = append(callers, embed(t.Context(), client, user("u", 1)))
	}
	if _, ok := (<-server.begun).(*twotowerv1.BatchGetUserEmbeddingsRequest); !ok {
		t.Error("the second call is no batch")
	}
	close(server.open)
	for _, c := range append(callers, one) {
		if <-c.done; c.err != nil {
			t.Error(c.err)
		}
	}
}

func TestABatchKeepsItsBounds(t *testing.T) {
	c := &coalescer[int]{limits: Coalescing{Entries: 5, InFlight: 1}}
	add := func(count, size, work int) {
		for range count {
			c.join(&entry[int]{ctx: context.Background(), request: make(encoded, size), work: work})
		}
	}
	sizes := func() (found []int) {
		for next := c.take(); next != nil; next = c.take() {
			found = append(found, len(next.entries))
			next.cancel()
		}
		return found
	}
	for name, test := range map[string]struct {
		count, size, work int
		want              string
	}{
		"entries": {12, 10, 1, "[5 5 2]"},
		"bytes":   {5, batchBytes / 3, 1, "[3 2]"},
		"work":    {5, 10, batchWork / 2, "[2 2 1]"},
		"one":     {2, 2 * batchBytes, 1, "[1 1]"},
	} {
		c.inFlight = 1
		add(test.count, test.size, test.work)
		if got := fmt.Sprint(sizes()); got != test.want || c.inFlight != 0 || c.work != 0 || len(c.waiting) != 0 {
			t.Errorf("%s: %s, want %s; in flight %d, work %d", name, got, test.want, c.inFlight, c.work)
		}
	}
}

// foreign is a context of another package: context.WithCancel watches it by a goroutine.
type foreign struct{ context.Context }

func (foreign) Done() <-chan struct{} { return make(chan struct{}) }

func TestCallsLeaveNothingWithAContextThatLivesOn(t *testing.T) {
	server := serveMirror(t, first())
	client := dial(t, server.target, WithTimeout(0))
	if _, err := client.EmbedUser(t.Context(), user("u", 1)); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range 200 {
		if _, err := client.EmbedUser(foreign{t.Context()}, user("u", 1)); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestLargeCallsAndThoseWithMetadataGoAlone(t *testing.T) {
	server := serveMirror(t, first("first"))
	client := dial(t, server.target, alone)
	one := embed(t.Context(), client, user("first", 0))
	<-server.begun
	large := user("large", 1)
	large.StringFeatures = map[string][]string{"tags": {strings.Repeat("x", batchBytes/2)}}
	if _, err := client.EmbedUser(t.Context(), large); err != nil {
		t.Error(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "tenant", "t1")
	if _, err := client.EmbedUser(ctx, user("u", 1)); err != nil {
		t.Error(err)
	}
	if got := server.received()[2].metadata.Get("tenant"); len(got) != 1 {
		t.Error("the metadata is lost")
	}
	close(server.open)
	<-one.done
}

func TestEveryCallerGetsItsOwnAnswerWhateverTheOthersDo(t *testing.T) {
	server := serve(t, func(_ context.Context, request proto.Message) (proto.Message, error) {
		switch rand.IntN(8) {
		case 0:
			return nil, unavailable
		case 1:
			return nil, status.Error(codes.Internal, "no")
		case 2:
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
		return mirrored(request)
	})
	client := dial(t, server.target, WithCoalescing(Coalescing{Entries: 16}), WithRetry(Retry{
		Attempts: 50, InitialBackoff: 1, MaxBackoff: time.Millisecond,
	}))
	client.budget.left = 1e9
	var group sync.WaitGroup
	for number := range 64 {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := range 40 {
				ctx, cancel := context.WithCancel(t.Context())
				if number%4 == 0 {
					time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
				}
				id, age := fmt.Sprint("u", number), float64(round)
				if number%16 == 1 {
					id = "bad"
				}
				if number%2 == 0 {
					embedding, err := client.EmbedUser(ctx, user(id, age))
					if err == nil && (embedding.Release != id || embedding.Values[0] != float32(age)) {
						t.Errorf("%s got the vector of %s", id, embedding.Release)
					}
					check(t, id, err, number%4 == 0)
				} else {
					scores, err := client.Score(ctx, &ScoreRequest{User: user(id, age), ItemIDs: make([]string, round+1)})
					if err == nil && id != "bad" && (scores.Release != id+"@" || len(scores.Scores) != round+1) {
						t.Errorf("%s got %d scores of %s", id, len(scores.Scores), scores.Release)
					}
					if id != "bad" { // alone the mirror scores even these
						check(t, id, err, false)
					}
				}
				cancel()
			}
		}()
	}
	group.Wait()
	for c, deadline := client.users.of(callOptions{}), time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		idle := c.inFlight == 0 && len(c.waiting) == 0 && c.work == 0
		c.mu.Unlock()
		if idle {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("something is left: %d in flight, %d waiting", c.inFlight, len(c.waiting))
		}
	}
}

func check(t *testing.T, id string, err error, mayCancel bool) {
	switch {
	case err == nil, mayCancel && errors.Is(err, context.Canceled):
	case status.Code(err) == codes.Internal: // one by one, the server said so again
	case id == "bad" && errors.Is(err, ErrNoKnownFeature):
	default:
		t.Errorf("%s: %v", id, err)
	}
}

// BenchmarkLoneCall has nobody to travel with: what coalescing costs then, in medians of calls that take turns.
func BenchmarkLoneCall(b *testing.B) {
	server := serve(b, sequence(served))
	clients := []*Client{dial(b, server.target, WithoutCoalescing()), dial(b, server.target)}
	one := busyUser()
	times := make([][]time.Duration, 2)
	for i := 0; b.Loop(); i = 1 - i {
		begin := time.Now()
		if _, err := clients[i].EmbedUser(b.Context(), one); err != nil {
			b.Fatal(err)
		}
		times[i] = append(times[i], time.Since(begin))
	}
	if len(times[1]) == 0 {
		return
	}
	for i, unit := range []string{"ns/single", "ns/coalesced"} {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2]), unit)
	}
}
