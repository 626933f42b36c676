package vectors_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/twotower/twotower/clients/go/vectors"
)

// What tests/go/test_vectors.py starts before it runs these tests: a Redis, a Cluster, and a server of the releases `dot`
// (active) and `cosine`, whose vectors are in both.
const (
	redisVariable   = "TWOTOWER_TEST_REDIS"
	clusterVariable = "TWOTOWER_TEST_REDIS_CLUSTER"
	targetVariable  = "TWOTOWER_TEST_TARGET"
)

func variable(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skip(name + " is not set: run by `make test-python`, which starts what is needed")
	}
	return value
}

func standalone(t testing.TB) redis.UniversalClient {
	t.Helper()
	options, err := redis.ParseURL(variable(t, redisVariable))
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func cluster(t testing.TB) redis.UniversalClient {
	t.Helper()
	options, err := redis.ParseClusterURL(variable(t, clusterVariable))
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClusterClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// onBoth runs a test on a standalone Redis and on a Cluster, with a prefix of its own.
func onBoth(t *testing.T, test func(t *testing.T, client redis.UniversalClient, prefix string)) {
	for name, open := range map[string]func(testing.TB) redis.UniversalClient{"standalone": standalone, "cluster": cluster} {
		t.Run(name, func(t *testing.T) { test(t, open(t), t.Name()+":") })
	}
}

func bytesOf(values ...float32) string {
	written := make([]byte, 0, 4*len(values))
	for _, value := range values {
		written = binary.LittleEndian.AppendUint32(written, math.Float32bits(value))
	}
	return string(written)
}

func write(t *testing.T, client redis.UniversalClient, key, value string) {
	t.Helper()
	if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// gate counts the turns to Redis for vectors, and holds them while it is shut.
type gate struct {
	turns atomic.Int64
	mutex sync.RWMutex
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		if !strings.HasSuffix(commands[0].Name(), "get") { // what begins a connection
			return next(ctx, commands)
		}
		g.turns.Add(1)
		g.mutex.RLock()
		defer g.mutex.RUnlock()
		return next(ctx, commands)
	}
}

func TestItemsAreAlignedWithTheirIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		reader, ctx := vectors.NewReader(client, vectors.WithPrefix(prefix)), t.Context()
		ids := []string{"a:b", "", "zürich 用户", "x\x00\n"}
		for i, id := range ids {
			write(t, client, prefix+"item_emb:r1:"+id, bytesOf(float32(i), -0.5))
			write(t, client, prefix+"item_emb:r2:"+id, bytesOf(float32(-i), 0.5))
		}
		asked := append(append([]string{"gone"}, ids...), "a:b")
		for range 2 { // from Redis, then from memory
			for release, sign := range map[string]float32{"r1": 1, "r2": -1} {
				found, err := reader.Items(ctx, release, 2, asked)
				if err != nil || len(found) != len(asked) || found[0] != nil {
					t.Fatal(found, err)
				}
				for i, vector := range found[1:] {
					if want := []float32{sign * float32(i%4), sign * -0.5}; !slices.Equal(vector, want) {
						t.Errorf("%s, place %d: %v, want %v", release, i+1, vector, want)
					}
				}
			}
		}
		if found, err := reader.Items(ctx, "r1", 2, nil); err != nil || len(found) != 0 {
			t.Error(found, err)
		}
		if _, err := reader.Items(ctx, "", 2, ids); err == nil {
			t.Error("no release is none")
		}
	})
}

func TestThousandsOfItems(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		pipeline, ids := client.Pipeline(), make([]string, 3001)
		for i := range ids {
			ids[i] = fmt.Sprint("i", i)
			if i%10 != 0 {
				pipeline.Set(t.Context(), prefix+"item_emb:r:"+ids[i], bytesOf(float32(i)), 0)
			}
		}
		if _, err := pipeline.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		found, err := vectors.NewReader(client, vectors.WithPrefix(prefix)).Items(t.Context(), "r", 1, ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, vector := range found {
			if missing := i%10 == 0; missing != (vector == nil) || !missing && vector[0] != float32(i) {
				t.Fatalf("%s is %v", ids[i], vector)
			}
		}
	})
}

func TestAValueThatIsNoVectorOfTheReleaseNamesItsKey(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		reader, ctx := vectors.NewReader(client, vectors.WithPrefix(prefix)), t.Context()
		write(t, client, prefix+"item_emb:r:good", bytesOf(1, 2))
		for id, problem := range map[string]struct{ value, says string }{
			"long":  {bytesOf(1, 2, 3), "has 3 dimensions, not 2"},
			"cut":   {bytesOf(1, 2)[:7], "is no vector: it has 7 bytes"},
			"empty": {"", "is no vector: it has 0 bytes"},
			"nan":   {bytesOf(1, float32(math.NaN())), "has a number that is not finite"},
			"inf":   {bytesOf(float32(math.Inf(-1)), 1), "has a number that is not finite"},
		} {
			key := prefix + "item_emb:r:" + id
			write(t, client, key, problem.value)
			_, err := reader.Items(ctx, "r", 2, []string{"good", id})
			var refused *vectors.ValueError
			if !errors.As(err, &refused) || refused.Key != key || refused.Problem != problem.says {
				t.Errorf("%s: %v", id, err)
			}
			write(t, client, key, bytesOf(3, 4)) // as a push that repairs it
			if found, err := reader.Items(ctx, "r", 2, []string{id}); err != nil || found[0][1] != 4 {
				t.Errorf("%s repaired: %v %v", id, found, err)
			}
		}
		// A vector that is in memory does not fit another dimension either.
		var refused *vectors.ValueError
		if _, err := reader.Items(ctx, "r", 3, []string{"good"}); !errors.As(err, &refused) {
			t.Error(err)
		}
	})
}

func TestWhatIsInMemoryIsNotReadAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		counting := &gate{}
		client.AddHook(counting)
		reader, ctx := vectors.NewReader(client, vectors.WithPrefix(prefix)), t.Context()
		ask := func(release, id string, turns int64) []float32 {
			t.Helper()
			before := counting.turns.Load()
			found, err := reader.Items(ctx, release, 1, []string{id})
			if err != nil {
				t.Fatal(err)
			}
			if got := counting.turns.Load() - before; got != turns {
				t.Errorf("%s of %s took %d turns to Redis, want %d", id, release, got, turns)
			}
			return found[0]
		}
		if ask("r", "a", 1) != nil {
			t.Error("Redis has none")
		}
		write(t, client, prefix+"item_emb:r:a", bytesOf(1))
		if ask("r", "a", 1) == nil { // what was missing is asked for again
			t.Error("Redis has it now")
		}
		ask("r", "a", 0)
		if ask("s", "a", 1) != nil {
			t.Error("that is of another release")
		}
		// What Redis lets expire stays in memory: of one release and id there is only one vector.
		client.Del(ctx, prefix+"item_emb:r:a")
		if ask("r", "a", 0) == nil {
			t.Error("it is forgotten")
		}
	})
}

func TestCallsThatMissTheSameVectorsReadThemOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		shut := &gate{}
		client.AddHook(shut)
		reader := vectors.NewReader(client, vectors.WithPrefix(prefix))
		write(t, client, prefix+"item_emb:r:a", bytesOf(1))
		write(t, client, prefix+"item_emb:r:b", bytesOf(2))
		shut.mutex.Lock()
		leaving, leave := context.WithCancel(t.Context())
		left, group := make(chan error), sync.WaitGroup{}
		go func() {
			_, err := reader.Items(leaving, "r", 1, []string{"a", "b", "a"})
			left <- err
		}()
		for shut.turns.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		for range 20 {
			group.Add(1)
			go func() {
				defer group.Done()
				found, err := reader.Items(t.Context(), "r", 1, []string{"b", "a"})
				if err != nil || found[0][0] != 2 || found[1][0] != 1 {
					t.Error(found, err)
				}
			}()
		}
		leave() // the caller that began to read; the others are served all the same
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		shut.mutex.Unlock()
		group.Wait()
		if turns := shut.turns.Load(); turns != 1 {
			t.Errorf("%d turns to Redis", turns)
		}
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	client := standalone(t)
	shut := &gate{}
	client.AddHook(shut)
	shut.mutex.Lock()
	defer shut.mutex.Unlock()
	reader := vectors.NewReader(client)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := reader.Items(ctx, "r", 1, []string{"a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := reader.Items(ctx, "r", 1, []string{"a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestARedisThatFailsIsAskedAgain(t *testing.T) {
	away := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer away.Close()
	reader := vectors.NewReader(away)
	for range 2 {
		if _, err := reader.Items(t.Context(), "r", 1, []string{"a"}); err == nil || !strings.Contains(err.Error(), "Redis") {
			t.Error(err)
		}
	}
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		reader, ctx := vectors.NewReader(client, vectors.WithPrefix(prefix)), t.Context()
		_ = client.Close()
		if _, err := reader.Items(ctx, "r", 1, []string{"a"}); !errors.Is(err, redis.ErrClosed) {
			t.Error(err)
		}
		if _, err := reader.Active(ctx); !errors.Is(err, redis.ErrClosed) {
			t.Error(err)
		}
		if _, err := reader.User(ctx, "r", "", "u"); !errors.Is(err, redis.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestTheActiveReleaseAndVectorsOfUsers(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient, prefix string) {
		reader, ctx := vectors.NewReader(client, vectors.WithPrefix(prefix)), t.Context()
		if active, err := reader.Active(ctx); active != "" || err != nil {
			t.Error(active, err)
		}
		write(t, client, prefix+"active", "r1")
		if active, err := reader.Active(ctx); active != "r1" || err != nil {
			t.Error(active, err)
		}
		write(t, client, prefix+"user_emb:r1:-:u:1", bytesOf(1, 2))
		write(t, client, prefix+"user_emb:r1:v7:u:1", bytesOf(3))
		write(t, client, prefix+"user_emb:r1:-:cut", "abc")
		for version, want := range map[string][]float32{"": {1, 2}, "v7": {3}, "v8": nil} {
			user, err := reader.User(ctx, "r1", version, "u:1")
			if err != nil || (user == nil) != (want == nil) {
				t.Error(version, user, err)
			} else if user != nil && (!slices.Equal(user.Values, want) || user.Release != "r1") {
				t.Errorf("version %q: %v, want %v", version, user, want)
			}
		}
		var refused *vectors.ValueError
		if _, err := reader.User(ctx, "r1", "", "cut"); !errors.As(err, &refused) {
			t.Error(err)
		}
	})
}
