// Command loadtest measures what coalescing is worth: calls a second through the client, as it is by default against
// single calls, by the number of concurrent callers.
//
//	go run ./internal/loadtest -target localhost:50051
//
// With -native it makes single calls to another server, too, which has to give the same embeddings.
//
// The kinds take turns within every round, on warm connections, so that a busy machine harms all alike; the table shows
// the median of the rounds, and their least and greatest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/twotower/twotower/clients/go/twotower"
)

// samples is how many different users, and lists of candidates, are sent in turn.
const samples = 256

// Names of kinds.
const (
	single    = "single calls"
	coalesced = "coalesced"
	dense     = "coalesced, dense"
	native    = "native, single calls"
)

// kind is a client and what it is called with.
type kind struct {
	name   string
	client *twotower.Client
	call   func(ctx context.Context, client *twotower.Client, sample int) error
}

// figures of one kind at one number of callers, one a round.
type figures struct {
	callsPerSecond []float64
	median, p99    []time.Duration
}

func main() {
	log.SetFlags(0)
	target := flag.String("target", "localhost:50051", "`address` of the server")
	nativeTarget := flag.String("native", "", "`address` of another server of the same release, for embeddings alone")
	callers := flag.String("callers", "1,8,64,512", "`numbers` of concurrent callers")
	rounds := flag.Int("rounds", 5, "rounds")
	duration := flag.Duration("duration", 2*time.Second, "time of each kind in a round")
	candidates := flag.Int("candidates", 0, "measure Score with so many candidates; 0 = GetUserEmbedding")
	connections := flag.Int("connections", 4, "connections of each client")
	inFlight := flag.Int("in-flight", 0, "batches in flight; 0 = the client's default")
	flag.Parse()
	var numbers []int
	for text := range strings.SplitSeq(*callers, ",") {
		number, err := strconv.Atoi(text)
		if err != nil || number < 1 {
			log.Fatalf("-callers: %q is no number of callers", text)
		}
		numbers = append(numbers, number)
	}
	if *nativeTarget != "" && *candidates > 0 {
		log.Fatal("-native and -candidates cannot be used together")
	}
	options := []twotower.Option{twotower.WithConnections(*connections), twotower.WithTimeout(30 * time.Second)}
	coalescing := twotower.WithCoalescing(twotower.Coalescing{InFlight: *inFlight})
	if err := run(*target, *nativeTarget, numbers, *rounds, *duration, *candidates, options, coalescing); err != nil {
		log.Fatal(err)
	}
}

func run(
	target, nativeTarget string, callers []int, rounds int, duration time.Duration, candidates int,
	options []twotower.Option, coalescing twotower.Option,
) (err error) {
	ctx := context.Background()
	var kinds []*kind
	defer func() {
		for _, one := range kinds {
			err = errors.Join(err, one.client.Close())
		}
	}()
	for _, one := range []struct {
		name, target string
		extra        []twotower.Option
	}{
		{single, target, []twotower.Option{twotower.WithoutCoalescing()}},
		{coalesced, target, []twotower.Option{coalescing}},
		{dense, target, []twotower.Option{coalescing, twotower.WithDenseFeatures()}},
		{native, nativeTarget, []twotower.Option{twotower.WithoutCoalescing()}},
	} {
		if one.target == "" {
			continue
		}
		client, err := twotower.Dial(ctx, one.target, slices.Concat(options, one.extra)...)
		if err != nil {
			return err
		}
		kinds = append(kinds, &kind{name: one.name, client: client})
	}
	users, err := sampleUsers(ctx, kinds[0].client)
	if err != nil {
		return err
	}
	if err := sameEmbeddings(ctx, kinds, users); err != nil {
		return err
	}
	call := func(ctx context.Context, client *twotower.Client, sample int) error {
		_, err := client.EmbedUser(ctx, users[sample%samples])
		return err
	}
	if candidates > 0 {
		lists, err := sampleCandidates(ctx, kinds[0].client, users[0], candidates)
		if err != nil {
			return err
		}
		call = func(ctx context.Context, client *twotower.Client, sample int) error {
			_, err := client.Score(ctx, &twotower.ScoreRequest{
				User: users[sample%samples], ItemIDs: lists[sample%samples],
			})
			return err
		}
	}
	for _, one := range kinds {
		one.call = call
	}
	measured, err := measure(ctx, kinds, callers, rounds, duration)
	if err != nil {
		return err
	}
	return show(kinds, callers, measured)
}

// sampleUsers makes users of all numeric features of the active release.
func sampleUsers(ctx context.Context, client *twotower.Client) ([]*twotower.User, error) {
	pinned, err := client.Pin(ctx)
	if err != nil {
		return nil, err
	}
	info, err := pinned.ServingInfo(ctx)
	if err != nil {
		return nil, err
	}
	names := info.GetReleases()[0].GetUserSchema().GetDenseOrder()
	users := make([]*twotower.User, samples)
	for i := range users {
		features := make(map[string]float64, len(names))
		for _, name := range names {
			features[name] = rand.NormFloat64()
		}
		users[i] = &twotower.User{Features: features}
	}
	return users, nil
}

// sameEmbeddings fails where kinds give different embeddings.
func sameEmbeddings(ctx context.Context, kinds []*kind, users []*twotower.User) error {
	for _, user := range users {
		want, err := kinds[0].client.EmbedUser(ctx, user)
		if err != nil {
			return err
		}
		for _, one := range kinds[1:] {
			got, err := one.client.EmbedUser(ctx, user)
			if err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			if !slices.EqualFunc(got.Values, want.Values, func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-4 }) {
				return fmt.Errorf("%s: embedding %v, want %v", one.name, got.Values, want.Values)
			}
		}
	}
	return nil
}

// sampleCandidates draws lists of items from the catalog.
func sampleCandidates(
	ctx context.Context, client *twotower.Client, user *twotower.User, count int,
) ([][]string, error) {
	found, err := client.Recommend(ctx, &twotower.RecommendRequest{
		User: user, Selection: twotower.Selection{K: 4 * count},
	})
	if err != nil {
		return nil, err
	}
	ids := found.ItemIDs()
	if len(ids) < count {
		return nil, fmt.Errorf("the catalog has %d items, %d are needed", len(ids), count)
	}
	lists := make([][]string, samples)
	for i := range lists {
		rand.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
		lists[i] = slices.Clone(ids[:count])
	}
	return lists, nil
}

func measure(
	ctx context.Context, kinds []*kind, callers []int, rounds int, duration time.Duration,
) (map[int]map[string]*figures, error) {
	measured := make(map[int]map[string]*figures)
	for _, count := range callers {
		measured[count] = make(map[string]*figures)
		for _, one := range kinds {
			measured[count][one.name] = &figures{}
			if _, err := load(ctx, one, count, duration/4); err != nil { // warm up
				return nil, err
			}
		}
		for round := range rounds {
			log.Printf("%d callers, round %d of %d", count, round+1, rounds)
			for _, one := range kinds {
				latencies, err := load(ctx, one, count, duration)
				if err != nil {
					return nil, err
				}
				slices.Sort(latencies)
				to := measured[count][one.name]
				to.callsPerSecond = append(to.callsPerSecond, float64(len(latencies))/duration.Seconds())
				to.median = append(to.median, latencies[len(latencies)/2])
				to.p99 = append(to.p99, latencies[len(latencies)*99/100])
			}
		}
	}
	return measured, nil
}

// load calls without pause from so many goroutines and returns how long each call took.
func load(ctx context.Context, of *kind, callers int, duration time.Duration) ([]time.Duration, error) {
	var (
		group     sync.WaitGroup
		next      atomic.Int64
		latencies = make([][]time.Duration, callers)
		failures  = make([]error, callers)
		end       = time.Now().Add(duration)
	)
	for caller := range callers {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				begin := time.Now()
				if begin.After(end) {
					return
				}
				if failures[caller] = of.call(ctx, of.client, int(next.Add(1))); failures[caller] != nil {
					return
				}
				latencies[caller] = append(latencies[caller], time.Since(begin))
			}
		}()
	}
	group.Wait()
	return slices.Concat(latencies...), errors.Join(failures...)
}

func show(kinds []*kind, callers []int, measured map[int]map[string]*figures) error {
	baselines := []string{single}
	if kinds[len(kinds)-1].name == native {
		baselines = append(baselines, native)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "callers\tkind\tcalls/s\tagainst %s\tmedian\tp99\n", strings.Join(baselines, "\tagainst "))
	for _, count := range callers {
		for _, one := range kinds {
			of := measured[count][one.name]
			fmt.Fprintf(table, "%d\t%s\t%.0f", count, one.name, median(of.callsPerSecond))
			for _, baseline := range baselines {
				fmt.Fprintf(table, "\t%s", spread(ratios(of.callsPerSecond, measured[count][baseline].callsPerSecond)))
			}
			fmt.Fprintf(table, "\t%v\t%v\n",
				median(of.median).Round(10*time.Microsecond), median(of.p99).Round(10*time.Microsecond))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if lone := measured[1]; lone != nil {
		longer := ratios(lone[coalesced].median, lone[single].median)
		fmt.Printf("median time of a lone call, %s against %s: %s\n", coalesced, single, spread(longer))
	}
	return nil
}

// ratios of figures of the same rounds.
func ratios[T float64 | time.Duration](of, to []T) []float64 {
	found := make([]float64, len(of))
	for i := range found {
		found[i] = float64(of[i]) / float64(to[i])
	}
	return found
}

func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f … %.2f)", median(values), slices.Min(values), slices.Max(values))
}

func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}
