package twotower

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
)

const (
	defaultTimeout     = time.Second
	defaultConnections = 4
	defaultKeepalive   = 30 * time.Second
	keepaliveTimeout   = 10 * time.Second

	// messageBytes is gRPC's default for what is received, kept on both sides by the contract.
	messageBytes = 4 << 20

	userAgent = "twotower-go/0.1.0"

	// serviceConfig spreads the calls of a connection over all addresses of the target; with one address it changes
	// nothing.
	serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`
)

// Option changes how Dial makes a client.
type Option func(*options) error

type options struct {
	timeout     time.Duration
	connections int
	keepalive   time.Duration
	retry       Retry
	coalescing  Coalescing
	dense       bool
	ready       bool
	tls         *tls.Config
	token       func(context.Context) (string, error)
	dial        []grpc.DialOption
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		timeout:     defaultTimeout,
		connections: defaultConnections,
		keepalive:   defaultKeepalive,
	}
	for _, set := range opts {
		if err := set(o); err != nil {
			return nil, fmt.Errorf("twotower: %w", err)
		}
	}
	if o.token != nil && o.tls == nil {
		return nil, errors.New("twotower: a token without TLS travels in clear text: add WithTLS, or, where a proxy on " +
			"this machine encrypts, send it by WithDialOptions and an interceptor")
	}
	o.retry = o.retry.withDefaults()
	o.coalescing = o.coalescing.withDefaults(o.connections)
	return o, nil
}

// WithTimeout sets the time of calls whose context has no deadline, retries and waits included. Default: 1 s; 0 = no
// limit. Calls of Releases and of the catalog have longer ones.
func WithTimeout(timeout time.Duration) Option {
	return func(o *options) error {
		if timeout < 0 {
			return fmt.Errorf("WithTimeout(%v): a time is at least 0", timeout)
		}
		o.timeout = timeout
		return nil
	}
}

// WithConnections sets how many connections are opened. Default: 4. Kernels spread connections over the workers of a
// server, not calls: a server with many workers needs some times as many.
func WithConnections(count int) Option {
	return func(o *options) error {
		if count < 1 {
			return fmt.Errorf("WithConnections(%d): at least 1 is needed", count)
		}
		o.connections = count
		return nil
	}
}

// WithKeepalive sets after how much silence a connection with calls in flight is probed. Default: 30 s; 0 = never.
// Without it a call to a machine that vanished waits for its deadline, and so does the next.
func WithKeepalive(interval time.Duration) Option {
	return func(o *options) error {
		o.keepalive = interval
		return nil
	}
}

// WithRetry sets how calls are tried again. Retry{Attempts: 1}: never.
func WithRetry(retry Retry) Option {
	return func(o *options) error {
		if retry.Attempts < 0 || retry.InitialBackoff < 0 || retry.MaxBackoff < 0 || retry.Multiplier < 0 {
			return errors.New("WithRetry: no field is less than 0")
		}
		o.retry = retry
		return nil
	}
}

// WithCoalescing sets how concurrent calls are sent together; see Coalescing.
func WithCoalescing(coalescing Coalescing) Option {
	return func(o *options) error {
		if coalescing.Entries < 0 || coalescing.InFlight < 0 {
			return errors.New("WithCoalescing: no field is less than 0")
		}
		o.coalescing = coalescing
		return nil
	}
}

// WithoutCoalescing sends every call as a call of its own.
func WithoutCoalescing() Option {
	return func(o *options) error {
		o.coalescing = Coalescing{off: true}
		return nil
	}
}

// WithDenseFeatures sends the numeric features of users and items as one vector in the order of the server's schema,
// which costs the server less than their names do. The client fetches the schema, and fetches it again when the server
// has another one. A feature that is NaN is then missing, where it would be refused by its name.
func WithDenseFeatures() Option {
	return func(o *options) error {
		o.dense = true
		return nil
	}
}

// WithReady makes Dial wait, within its context, until the server answers. Without it Dial returns at once, and a
// server that is not there yet is noticed by the first call.
func WithReady() Option {
	return func(o *options) error {
		o.ready = true
		return nil
	}
}

// WithTLS encrypts. nil trusts the roots of the system; a config with Certificates, or GetClientCertificate for ones
// that are renewed, shows them to a server that asks (mutual TLS).
func WithTLS(config *tls.Config) Option {
	return func(o *options) error {
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		o.tls = config
		return nil
	}
}

// WithToken sends a bearer token with every call. It needs WithTLS.
func WithToken(token string) Option {
	return WithTokenSource(func(context.Context) (string, error) { return token, nil })
}

// WithTokenSource asks for the bearer token before every call, so that one that is renewed is picked up. It needs
// WithTLS. The function is called by many goroutines and should keep the token that it has.
func WithTokenSource(token func(context.Context) (string, error)) Option {
	return func(o *options) error {
		o.token = token
		return nil
	}
}

// WithStatsHandler observes connections and calls, as otelgrpc.NewClientHandler of OpenTelemetry does. Calls that are
// sent together are one call to it, in the trace of the first of them.
func WithStatsHandler(handler stats.Handler) Option {
	return WithDialOptions(grpc.WithStatsHandler(handler))
}

// WithDialOptions passes options of gRPC on; they come last and win. An interceptor sees requests as bytes, where this
// package writes them itself.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) error {
		o.dial = append(o.dial, dial...)
		return nil
	}
}

func (o *options) dialOptions() []grpc.DialOption {
	dial := []grpc.DialOption{
		grpc.WithUserAgent(userAgent),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(newCodec()),
			grpc.MaxCallSendMsgSize(messageBytes),
			grpc.MaxCallRecvMsgSize(messageBytes),
		),
		// The client's own retries are the only ones: two layers multiply the load when a server has too much of it.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// gRPC's 1 s between connection attempts outlasts a whole call; a restarted server should be found sooner.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if o.keepalive > 0 {
		// Pings go out only while calls wait, which servers allow.
		dial = append(dial, grpc.WithKeepaliveParams(
			keepalive.ClientParameters{Time: o.keepalive, Timeout: keepaliveTimeout},
		))
	}
	if o.tls == nil {
		dial = append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()))
	} else {
		dial = append(dial, grpc.WithTransportCredentials(credentials.NewTLS(o.tls)))
	}
	if o.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer{o.token}))
	}
	return append(dial, o.dial...)
}

// bearer adds the token to calls.
type bearer struct {
	token func(context.Context) (string, error)
}

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.token(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
