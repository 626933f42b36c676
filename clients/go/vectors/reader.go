package vectors

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/twotower/twotower/clients/go/twotower"
)

const (
	defaultPrefix     = "twotower:"
	defaultCacheBytes = 64 << 20
	// keysPerCommand: Redis serves nobody else while it runs a command.
	keysPerCommand = 1000
)

// Reader reads vectors from Redis. Make one and keep it: any number of goroutines may share it.
type Reader struct {
	redis  redis.UniversalClient
	prefix string
	cache  *cache
}

// Option changes a Reader.
type Option func(*Reader)

// WithPrefix is what all keys begin with; "twotower:" by default. It is what `--redis-prefix` of the server is.
func WithPrefix(prefix string) Option { return func(r *Reader) { r.prefix = prefix } }

// WithCacheBytes bounds the near-cache, 64 MiB by default: about 150,000 vectors of 64 dimensions. 0 turns it off.
func WithCacheBytes(bytes int) Option { return func(r *Reader) { r.cache = newCache(bytes) } }

// NewReader makes a reader of what the go-redis client is connected to: *redis.Client to a standalone server,
// *redis.ClusterClient to a Cluster. The client stays the caller's, who closes it.
//
// A read ends by the client's own time-outs, whose defaults are seconds: set ReadTimeout, PoolTimeout and MaxRetries.
func NewReader(client redis.UniversalClient, opts ...Option) *Reader {
	r := &Reader{redis: client, prefix: defaultPrefix, cache: newCache(defaultCacheBytes)}
	for _, set := range opts {
		set(r)
	}
	return r
}

// Items returns the vectors of items in one release, aligned with itemIDs; nil where Redis has none. The release and
// the dimension are those of the vector that they will be compared with. Vectors are shared by all callers: do not
// change them.
//
// A vector of another dimension is a *ValueError. The call ends with its context; the vectors that it began to read are
// kept for the next one all the same.
func (r *Reader) Items(ctx context.Context, release string, dimension int, itemIDs []string) ([][]float32, error) {
	if release == "" || dimension <= 0 {
		return nil, fmt.Errorf("vectors: items of release %q with %d dimensions", release, dimension)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("vectors: %w", err)
	}
	found := make([][]float32, len(itemIDs))
	own, waits := r.cache.look(space{release, dimension}, itemIDs, found)
	if own != nil {
		go r.read(context.WithoutCancel(ctx), own)
	}
	for _, wait := range waits {
		select {
		case <-wait.reading.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("vectors: Redis has not answered: %w", ctx.Err())
		}
		if wait.entry.err != nil {
			return nil, wait.entry.err
		}
		found[wait.place] = wait.entry.vector
	}
	return found, nil
}

// User returns the vector of a user that the server's cache has written; nil when Redis has none. featureVersion is
// that of the user, or "". It is not kept here: it lives as long as the release's policy says.
func (r *Reader) User(ctx context.Context, release, featureVersion, userID string) (*twotower.Embedding, error) {
	key := r.userKey(release, featureVersion, userID)
	value, err := r.redis.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	vector, err := decode(key, value, 0)
	if err != nil {
		return nil, err
	}
	return &twotower.Embedding{Values: vector, Release: release}, nil
}

// Active returns the release that the key `active` names; "" when it is not there. It is for programs that call no
// server: servers and the key are switched one after the other.
func (r *Reader) Active(ctx context.Context) (string, error) {
	release, err := r.redis.Get(ctx, r.prefix+"active").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", failed(err)
	}
	return release, nil
}

func (r *Reader) itemKey(release, itemID string) string {
	return r.prefix + "item_emb:" + release + ":" + itemID
}

func (r *Reader) userKey(release, featureVersion, userID string) string {
	if featureVersion == "" {
		featureVersion = "-"
	}
	return r.prefix + "user_emb:" + release + ":" + featureVersion + ":" + userID
}

// read gives every entry what Redis has of it.
func (r *Reader) read(ctx context.Context, own *reading) {
	defer r.cache.finish(own)
	keys := make([]string, len(own.entries))
	for i, e := range own.entries {
		keys[i] = r.itemKey(own.release, e.itemID)
	}
	get := r.gets
	if _, ok := r.redis.(*redis.Client); ok {
		get = r.mget
	}
	values, err := get(ctx, keys)
	for i, e := range own.entries {
		if err != nil {
			e.err = err
		} else if value, ok := values[i].(string); ok {
			e.vector, e.err = decode(keys[i], value, own.dimension)
		}
	}
}

// mget is for a standalone server, one command for many keys: a string each, or nil.
func (r *Reader) mget(ctx context.Context, keys []string) ([]any, error) {
	pipeline := r.redis.Pipeline()
	var commands []*redis.SliceCmd
	for some := range slices.Chunk(keys, keysPerCommand) {
		commands = append(commands, pipeline.MGet(ctx, some...))
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, failed(err)
	}
	values := make([]any, 0, len(keys))
	for _, command := range commands {
		values = append(values, command.Val()...)
	}
	return values, nil
}

// gets is the same for a Cluster, whose keys lie on different nodes: go-redis makes one pipeline a node.
func (r *Reader) gets(ctx context.Context, keys []string) ([]any, error) {
	pipeline := r.redis.Pipeline()
	commands := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		commands[i] = pipeline.Get(ctx, key)
	}
	_, _ = pipeline.Exec(ctx) // the first error of a command, such as that its key is not there
	values := make([]any, len(keys))
	for i, command := range commands {
		switch value, err := command.Result(); {
		case err == nil:
			values[i] = value
		case !errors.Is(err, redis.Nil):
			return nil, failed(err)
		}
	}
	return values, nil
}

func failed(err error) error { return fmt.Errorf("vectors: reading from Redis: %w", err) }
