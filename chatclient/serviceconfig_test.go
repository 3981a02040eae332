package chatclient_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// TestServiceConfigNames: the config retries exactly the Get and List methods and CancelTurn, all of which say in the proto
// that they can be.
func TestServiceConfigNames(t *testing.T) {
	var config struct {
		LoadBalancingConfig []map[string]struct{}
		HealthCheckConfig   struct{ ServiceName string }
		MethodConfig        []struct {
			Name        []struct{ Service, Method string }
			RetryPolicy struct {
				MaxAttempts                int
				InitialBackoff, MaxBackoff string
				BackoffMultiplier          float64
				RetryableStatusCodes       []string
			}
		}
		RetryThrottling struct{ MaxTokens, TokenRatio float64 }
	}
	decoder := json.NewDecoder(strings.NewReader(chatclient.ServiceConfig))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	if len(config.LoadBalancingConfig) != 1 || fmt.Sprint(config.LoadBalancingConfig[0]) != "map[round_robin:{}]" ||
		config.HealthCheckConfig.ServiceName != chatsvcv1.ChatService_ServiceDesc.ServiceName {
		t.Errorf("%v, %v", config.LoadBalancingConfig, config.HealthCheckConfig)
	}
	retried := map[string]int{}
	for _, m := range config.MethodConfig {
		for _, name := range m.Name {
			if name.Method == "" {
				t.Errorf("a name without a method is for all methods of %q", name.Service)
			}
			retried[name.Service+"/"+name.Method]++
		}
		if got := fmt.Sprint(m.RetryPolicy.RetryableStatusCodes); got != "[UNAVAILABLE]" {
			t.Errorf("retries %s", got)
		}
	}

	// The control plane has a port of its own, which no client of this config calls.
	control := []protoreflect.FullName{"chatsvc.v1.TeamService", "chatsvc.v1.KeyService", "chatsvc.v1.AuditService"}
	protoregistry.GlobalFiles.RangeFilesByPackage("chatsvc.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				name, full := string(method.Name()), fmt.Sprintf("%s/%s", service.FullName(), method.Name())
				want := 0
				reads := strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List")
				if !slices.Contains(control, service.FullName()) && (reads || name == "CancelTurn") {
					want = 1
				}
				if retried[full] != want {
					t.Errorf("%s stands in the config %d times, want %d", full, retried[full], want)
				}
				delete(retried, full)
				options, _ := method.Options().(*descriptorpb.MethodOptions)
				if want == 1 && options.GetIdempotencyLevel() == descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
					t.Errorf("%s is retried, and its proto does not say that it may be", full)
				}
			}
		}
		return true
	})
	if len(retried) > 0 {
		t.Errorf("the config names methods that do not exist: %v", retried)
	}
}

// TestServiceConfigRetries: gRPC understands the config, and does over TCP what it says.
func TestServiceConfigRetries(t *testing.T) {
	var failures atomic.Int32
	f := &fake{at: func(p point) error {
		if p.place == "start" && failures.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "not now")
		}
		return nil
	}}
	conn := f.start(t)
	chat := chatsvcv1.NewChatServiceClient(conn)
	name := create(t, conn)
	ctx := within(t)
	for _, tt := range []struct {
		method string
		call   func() error
		calls  int
	}{
		{"GetTurn", func() error { _, err := chat.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: name}); return err }, 3},
		{"ListTurns", func() error { _, err := chat.ListTurns(ctx, &chatsvcv1.ListTurnsRequest{}); return err }, 3},
		{"CancelTurn", func() error { _, err := chat.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name}); return err }, 3},
		{"CreateTurn", func() error { _, err := chat.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{}); return err }, 1},
		{"StreamTurn", func() error {
			stream, err := chat.StreamTurn(ctx, &chatsvcv1.CreateTurnRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, 1},
		{"WatchTurn", func() error {
			stream, err := chat.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: name})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, 1},
	} {
		failures.Store(2)
		before := f.called(tt.method)
		err := tt.call()
		if calls := f.called(tt.method) - before; calls != tt.calls || (err == nil) != (tt.calls == 3) {
			t.Errorf("%s: %d calls, want %d; %v", tt.method, calls, tt.calls, err)
		}
	}
}

// TestServiceConfigHealth: calls go to no server that does not report ChatService as SERVING.
func TestServiceConfigHealth(t *testing.T) {
	f := &fake{unhealthy: true}
	conn := f.start(t)
	_, err := chatsvcv1.NewChatServiceClient(conn).GetTurn(within(t), &chatsvcv1.GetTurnRequest{})
	if status.Code(err) != codes.Unavailable || f.called("GetTurn") != 0 {
		t.Errorf("%v, %d calls", err, f.called("GetTurn"))
	}
}
