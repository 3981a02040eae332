package chatclient

import (
	_ "embed"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	_ "google.golang.org/grpc/health" // Client-side health checking, which grpc leaves out unless this is linked.
	"google.golang.org/grpc/keepalive"
)

// ServiceConfig is the gRPC service config that chatsvc publishes for its callers in every language: round robin over all
// replicas that report ChatService as SERVING, and retries, after UNAVAILABLE, of the Get and List methods and CancelTurn. It
// never retries CreateTurn, StreamTurn or WatchTurn: to repeat those takes a request_id or a sequence number, which is what
// Client is for.
//
// Go programs that use it without [Dial] need the package google.golang.org/grpc/health for the health checks: importing
// this package links it.
//
//go:embed service_config.json
var ServiceConfig string

// maxReply holds the largest turn: an answer of 3 MiB, and its text for people.
const maxReply = 16 << 20

// Dial prepares a connection as chatsvc likes it: with [ServiceConfig], pings that notice a dead network or a server that
// hangs within some 15 seconds, quick reconnection, and room for the largest answer. The options come after these and win; transport credentials
// must be among them. The target should name all replicas, as dns:///chatsvc.internal:50051 does.
//
// As with grpc.NewClient, the first call connects.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithDefaultServiceConfig(ServiceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		// The server allows a ping every 10 s, also while no call runs. A ping goes out 10 s after the answer to the one
		// before, never earlier, and gRPC would make more of a shorter time.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", target, err)
	}
	return conn, nil
}
