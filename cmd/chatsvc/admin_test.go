package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Each listener has its own services, and their health; the rest of the other's is not there.
func TestPlanes(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	data, control := p.dial(t, redKey), dial(t, p.admin, redKey)
	for _, plane := range []struct {
		conn     *grpc.ClientConn
		services []string
	}{
		{data.conn, []string{"ChatService", "ConversationService", "CallerService"}},
		{control.conn, []string{"TeamService", "KeyService", "AuditService"}},
	} {
		want := map[string]bool{"grpc.health.v1.Health": true, "grpc.reflection.v1.ServerReflection": true, "grpc.reflection.v1alpha.ServerReflection": true}
		for _, name := range append(plane.services, "") {
			if name != "" {
				name = "chatsvc.v1." + name
				want[name] = true
			}
			health, err := healthpb.NewHealthClient(plane.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
			if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("health of %q: %v, %v", name, health, err)
			}
		}
		stream, err := reflectionpb.NewServerReflectionClient(plane.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		reply, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range reply.GetListServicesResponse().GetService() {
			if !want[s.GetName()] {
				t.Errorf("%s has %s", plane.conn.Target(), s.GetName())
			}
			delete(want, s.GetName())
		}
		if len(want) != 0 {
			t.Errorf("%s lacks %v", plane.conn.Target(), want)
		}
	}
	if _, err := dial(t, p.admin, redKey).caller.GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("GetCaller on the admin listener: %v", err)
	}
	if _, err := chatsvcv1.NewTeamServiceClient(data.conn).ListTeams(t.Context(), &chatsvcv1.ListTeamsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("ListTeams on the data plane: %v", err)
	}
	large := &chatsvcv1.ListTeamsRequest{PageToken: strings.Repeat("x", adminMessage)}
	if _, err := chatsvcv1.NewTeamServiceClient(control.conn).ListTeams(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of more than %d bytes: %v", adminMessage, err)
	}
}

// What is neither a probe nor a call gets an answer, and none of it is in the log.
func TestAdminListenerIsStrict(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	for _, tt := range []struct {
		request string
		want    string
	}{
		{"GET /canary HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "},
		{"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405 "},
		{"POST /chatsvc.v1.TeamService/ListTeams HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 "},
		{"GET /livez HTTP/1.1\r\nHost: x\r\nX-Canary: " + strings.Repeat("canary", 10_000) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"canary\r\n\r\n", "HTTP/1.1 400 "},
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.admin)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, tt.request) // it may be answered before it is read
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, tt.want) {
			t.Errorf("%.40q: %q, %v; want %s", tt.request, line, err, tt.want)
		}
		_ = conn.Close()
	}
	if strings.Contains(p.logs.String(), "canary\"") || strings.Contains(p.logs.String(), "canarycanary") {
		t.Errorf("what a stranger sent is in the log:\n%s", p.logs)
	}
}

// The probes say that the server stops for as long as turns end; then calls of the control plane have a moment, and somebody
// who only watches the health does not hold the end up.
func TestAdminListenerStops(t *testing.T) {
	t.Parallel()
	p := launch(t, "serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--database-url=sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"))
	c, admin := p.dial(t, "dev"), dial(t, p.admin, "dev")
	// A call that has begun, and of which the server has everything but the message.
	begun, err := admin.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, chatsvcv1.TeamService_CreateTeam_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := healthpb.NewHealthClient(admin.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := watch.Recv(); err != nil || now.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", now, err)
	}
	running, err := c.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "[[sim ttft=2s answer=\"Four.\"]]"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := running.Recv(); err != nil {
		t.Fatal(err)
	}
	code := make(chan int, 1)
	began := time.Now()
	go func() { code <- p.stop() }()
	if then, err := watch.Recv(); err != nil || then.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health then: %v, %v", then, err)
	}
	for path, want := range map[string]string{"/readyz": "503 stopping\n", "/livez": "200 ok\n"} {
		status, body, err := get(t, nil, "http://"+p.admin+path)
		if got := fmt.Sprint(status, " ", body); got != want || err != nil {
			t.Errorf("%s of a stopping server: %q, %v", path, got, err)
		}
	}
	if _, err := collect(running); err != nil {
		t.Errorf("the turn ended %v", err)
	}
	eventually(t, 10*time.Second, "nobody is let in any more", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.admin)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	made := &chatsvcv1.Team{}
	if err := errors.Join(begun.SendMsg(&chatsvcv1.CreateTeamRequest{TeamId: "late", Team: &chatsvcv1.Team{}}), begun.CloseSend(), begun.RecvMsg(made)); err != nil || made.GetName() != "teams/late" {
		t.Errorf("the call that had begun: %v, %v", made, err)
	}
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// A server that starts says which keys end soon.
func TestKeysThatEndAreLogged(t *testing.T) {
	t.Parallel()
	args := []string{"serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--database-url=sqlite:" + filepath.Join(t.TempDir(), "chatsvc.db")}
	p := launch(t, args...)
	conn := dial(t, p.admin, "dev").conn
	teams, keys := chatsvcv1.NewTeamServiceClient(conn), chatsvcv1.NewKeyServiceClient(conn)
	_, teamErr := teams.CreateTeam(t.Context(), &chatsvcv1.CreateTeamRequest{TeamId: "shop"})
	_, clientErr := teams.CreateClient(t.Context(), &chatsvcv1.CreateClientRequest{Parent: "teams/shop", ClientId: "web"})
	key, keyErr := keys.CreateKey(t.Context(), &chatsvcv1.CreateKeyRequest{
		Parent: "teams/shop/clients/web", Key: &chatsvcv1.Key{ExpireTime: timestamppb.New(time.Now().Add(6 * 24 * time.Hour))},
	})
	if err := errors.Join(teamErr, clientErr, keyErr); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p = launch(t, args...)
	eventually(t, 10*time.Second, "the line", func() bool {
		return strings.Contains(p.logs.String(), "keys end soon") && strings.Contains(p.logs.String(), key.GetName())
	})
	if strings.Contains(p.logs.String(), key.GetSecret()) {
		t.Error("the key is in the log")
	}
}
