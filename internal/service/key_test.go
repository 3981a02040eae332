package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// A key is shown once, when it is made; what it is made of comes back.
func TestKeys(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	admin := as(t, "red", tenant.RoleTeamAdmin)
	asked := &chatsvcv1.Key{
		Name: "ignored", Secret: "ignored", ReplacedBy: "ignored", State: chatsvcv1.KeyState_KEY_STATE_REVOKED,
		DisplayName:   "A key",
		Roles:         []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_CALLER, chatsvcv1.AccessRole_ACCESS_ROLE_TEAM_ADMIN},
		AllowedModels: []string{"m", "n"}, AllowedCidrs: []string{"10.0.0.0/8", "2001:db8::/32"},
		ExpireTime: timestamppb.New(time.Now().Add(48 * time.Hour).Truncate(time.Second)),
	}
	made := must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web", Key: asked}))
	_, _, id, err := parseKey(made.GetName())
	if err != nil || !strings.HasPrefix(made.GetSecret(), "csk_"+id+"_") {
		t.Fatalf("made %s, %v", made.GetName(), err)
	}
	want := proto.CloneOf(asked)
	want.Name, want.Secret, want.ReplacedBy, want.State = made.GetName(), made.GetSecret(), "", chatsvcv1.KeyState_KEY_STATE_ACTIVE
	want.CreateTime = made.GetCreateTime()
	if !proto.Equal(made, want) {
		t.Errorf("made %v, want %v", made, want)
	}

	get := func(name string) *chatsvcv1.Key {
		t.Helper()
		return must[*chatsvcv1.Key](t)(c.GetKey(admin, &chatsvcv1.GetKeyRequest{Name: name}))
	}
	want.Secret = ""
	if got := get(made.GetName()); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	next := must[*chatsvcv1.Key](t)(c.RotateKey(admin, &chatsvcv1.RotateKeyRequest{Name: made.GetName(), Overlap: durationpb.New(time.Hour)}))
	if next.GetSecret() == "" || next.GetSecret() == made.GetSecret() || !slices.Equal(next.GetAllowedModels(), asked.GetAllowedModels()) {
		t.Errorf("rotated to %v", next)
	}
	old := get(made.GetName())
	if left := time.Until(old.GetExpireTime().AsTime()); old.GetReplacedBy() != next.GetName() || old.GetState() != chatsvcv1.KeyState_KEY_STATE_ACTIVE ||
		left > time.Hour || left < 59*time.Minute {
		t.Errorf("the old one is %v", old)
	}
	revoked := must[*chatsvcv1.Key](t)(c.RevokeKey(admin, &chatsvcv1.RevokeKeyRequest{Name: next.GetName()}))
	if revoked.GetState() != chatsvcv1.KeyState_KEY_STATE_REVOKED || revoked.GetRevokeTime() == nil || revoked.GetSecret() != "" {
		t.Errorf("revoked %v", revoked)
	}
	if again := must[*chatsvcv1.Key](t)(c.RevokeKey(admin, &chatsvcv1.RevokeKeyRequest{Name: next.GetName()})); !proto.Equal(again, revoked) {
		t.Errorf("revoked again: %v, want %v", again, revoked)
	}
	for _, name := range []string{made.GetName(), next.GetName()} {
		_, err := c.RotateKey(admin, &chatsvcv1.RotateKeyRequest{Name: name})
		wantStatus(t, err, codes.FailedPrecondition, conversation.InvalidState)
	}

	// Without an overlap, the old one is over at once; unset is a day.
	short := must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web"}))
	must[*chatsvcv1.Key](t)(c.RotateKey(admin, &chatsvcv1.RotateKeyRequest{Name: short.GetName(), Overlap: durationpb.New(0)}))
	if got := get(short.GetName()); got.GetState() != chatsvcv1.KeyState_KEY_STATE_EXPIRED {
		t.Errorf("rotated without overlap: %v", got)
	}
	long := must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web"}))
	must[*chatsvcv1.Key](t)(c.RotateKey(admin, &chatsvcv1.RotateKeyRequest{Name: long.GetName()}))
	if left := time.Until(get(long.GetName()).GetExpireTime().AsTime()); left > tenant.DefaultOverlap || left < tenant.DefaultOverlap-time.Minute {
		t.Errorf("the default overlap is %v", left)
	}

	list := must[*chatsvcv1.ListKeysResponse](t)(c.ListKeys(admin, &chatsvcv1.ListKeysRequest{Parent: "teams/red"}))
	if len(list.GetKeys()) != 7 {
		t.Errorf("%d keys", len(list.GetKeys()))
	}
	for _, k := range list.GetKeys() {
		if k.GetSecret() != "" || !proto.Equal(k, get(k.GetName())) {
			t.Errorf("listed %v", k)
		}
	}
}

// A repeat of a request gives the same key, and nobody else's request does.
func TestKeyRequestsCanBeRepeated(t *testing.T) {
	c := serveControl(t)
	key := c.addTeam(t, "red")
	c.addTeam(t, "blue")
	admin := as(t, "red", tenant.RoleTeamAdmin)
	create := &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web", RequestId: uuid.NewString()}
	rotate := &chatsvcv1.RotateKeyRequest{Name: key.GetName(), RequestId: create.GetRequestId()}
	made := must[*chatsvcv1.Key](t)(c.CreateKey(admin, create))
	if again := must[*chatsvcv1.Key](t)(c.CreateKey(admin, create)); !proto.Equal(again, made) {
		t.Errorf("created %v, and again %v", made, again)
	}
	rotated := must[*chatsvcv1.Key](t)(c.RotateKey(admin, rotate))
	if again := must[*chatsvcv1.Key](t)(c.RotateKey(admin, rotate)); !proto.Equal(again, rotated) || again.GetSecret() == made.GetSecret() {
		t.Errorf("rotated %v, and again %v", rotated, again)
	}
	other := proto.CloneOf(create)
	other.Key = &chatsvcv1.Key{DisplayName: "other"}
	_, err := c.CreateKey(admin, other)
	wantStatus(t, err, codes.AlreadyExists, conversation.RequestIDReused)
	blue := proto.CloneOf(create)
	blue.Parent = "teams/blue/clients/web"
	if theirs := must[*chatsvcv1.Key](t)(c.CreateKey(as(t, "blue", tenant.RoleTeamAdmin), blue)); theirs.GetSecret() == made.GetSecret() {
		t.Error("another team has got the key")
	}

	v4 := uuid.NewString()
	v7 := uuid.Must(uuid.NewV7()).String()
	for _, id := range []string{"x", v7, "{" + v4 + "}", "urn:uuid:" + v4, strings.ReplaceAll(v4, "-", ""), uuid.Nil.String(), v4 + " "} {
		_, err := c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web", RequestId: id})
		if info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != "request_id" {
			t.Errorf("%q: metadata %v", id, info.GetMetadata())
		}
		_, err = c.RotateKey(admin, &chatsvcv1.RotateKeyRequest{Name: rotated.GetName(), RequestId: id})
		wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
	}
}

// Nobody grants, or takes away, a role that reaches further than their own.
func TestKeysThatAreNotTheCallersToGrant(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	parent := "teams/red/clients/web"
	platform := must[*chatsvcv1.Key](t)(c.CreateKey(as(t, "platform", tenant.RolePlatformAdmin), &chatsvcv1.CreateKeyRequest{
		Parent: parent, Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_PLATFORM_ADMIN}},
	}))
	// The auditor's role sees all teams, and grants nothing.
	for _, ctx := range []func() error{
		func() error {
			_, err := c.CreateKey(as(t, "red", tenant.RoleTeamAdmin, tenant.RoleAuditor), &chatsvcv1.CreateKeyRequest{
				Parent: parent, Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_AUDITOR}},
			})
			return err
		},
		func() error {
			_, err := c.RotateKey(as(t, "red", tenant.RoleTeamAdmin), &chatsvcv1.RotateKeyRequest{Name: platform.GetName()})
			return err
		},
		func() error {
			_, err := c.RevokeKey(as(t, "red", tenant.RoleTeamAdmin), &chatsvcv1.RevokeKeyRequest{Name: platform.GetName()})
			return err
		},
	} {
		wantStatus(t, ctx(), codes.PermissionDenied, conversation.RoleMissing)
	}
}

func TestKeySpec(t *testing.T) {
	got, err := keySpecFromProto(fromJSON(t, `{
		"displayName":"a","roles":["ACCESS_ROLE_VIEWER","ACCESS_ROLE_AUDITOR"],"allowedModels":["m"],"allowedCidrs":["192.0.2.1/32","::/0"],
		"expireTime":"2126-01-01T00:00:00Z"}`, &chatsvcv1.Key{}))
	want := tenant.KeySpec{
		DisplayName: "a", Roles: tenant.RolesOf(tenant.RoleViewer, tenant.RoleAuditor), AllowedModels: []string{"m"},
		AllowedCIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("::/0")},
		ExpireTime:   time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, err := keySpecFromProto(nil); err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tenant.KeySpec{}) {
		t.Errorf("of nothing: %+v, %v", got, err)
	}
	for field, keys := range map[string][]string{
		"key.roles[1]": {
			`{"roles":["ACCESS_ROLE_CALLER","ACCESS_ROLE_UNSPECIFIED"]}`, `{"roles":["ACCESS_ROLE_CALLER",6]}`,
			`{"roles":["ACCESS_ROLE_CALLER",257]}`, `{"roles":["ACCESS_ROLE_CALLER",-1]}`,
		},
		"key.allowed_cidrs[1]": {
			`{"allowedCidrs":["10.0.0.0/8",""]}`, `{"allowedCidrs":["10.0.0.0/8","10.0.0.1"]}`, `{"allowedCidrs":["10.0.0.0/8","10.0.0.0/33"]}`,
			`{"allowedCidrs":["10.0.0.0/8","010.0.0.0/8"]}`, `{"allowedCidrs":["10.0.0.0/8","fe80::%eth0/64"]}`, `{"allowedCidrs":["10.0.0.0/8","10.0.0.0/08"]}`,
		},
	} {
		for _, key := range keys {
			_, err := keySpecFromProto(fromJSON(t, key, &chatsvcv1.Key{}))
			if wantInvalid(t, err, field); t.Failed() {
				t.Fatal(key)
			}
		}
	}
	for _, end := range []*timestamppb.Timestamp{{Nanos: -1}, {Seconds: -1}, timestamppb.New(time.Time{})} {
		_, err = keySpecFromProto(&chatsvcv1.Key{ExpireTime: end})
		wantInvalid(t, err, "key.expire_time")
	}
}

func TestKeyState(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name            string
		expires, revoke time.Time
		want            chatsvcv1.KeyState
	}{
		{"it works", now.Add(1), time.Time{}, chatsvcv1.KeyState_KEY_STATE_ACTIVE},
		{"it ends now", now, time.Time{}, chatsvcv1.KeyState_KEY_STATE_EXPIRED},
		{"it was revoked", now.Add(time.Hour), now.Add(-1), chatsvcv1.KeyState_KEY_STATE_REVOKED},
		{"it was revoked and would have ended", now.Add(-1), now.Add(-2), chatsvcv1.KeyState_KEY_STATE_REVOKED},
	} {
		k := &tenant.Key{Team: "red", Client: "web", ID: "abcdefghijklmn27", ExpireTime: test.expires, RevokeTime: test.revoke, ReplacedBy: "aaaaaaaaaaaaaaaa"}
		got := keyToProto(k, now)
		if got.GetState() != test.want || (got.GetRevokeTime() != nil) != !test.revoke.IsZero() {
			t.Errorf("%s: %v", test.name, got)
		}
		if got.GetName() != "teams/red/clients/web/keys/abcdefghijklmn27" || got.GetReplacedBy() != "teams/red/clients/web/keys/aaaaaaaaaaaaaaaa" {
			t.Errorf("%s: names %q, %q", test.name, got.GetName(), got.GetReplacedBy())
		}
	}
}

// Keys come newest first, of a client or of a team, in pages that do not move when keys are made meanwhile.
func TestPagesOfKeys(t *testing.T) {
	c := serveControl(t)
	admin := as(t, "red", tenant.RoleTeamAdmin)
	add := func(client string) string {
		return must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: tenant.ClientName("red", client)})).GetName()
	}
	want := []string{c.addTeam(t, "red").GetName()}
	must[*chatsvcv1.Client](t)(c.CreateClient(admin, &chatsvcv1.CreateClientRequest{Parent: "teams/red", ClientId: "app"}))
	for _, client := range []string{"app", "web", "app"} {
		want = append(want, add(client))
	}
	slices.Reverse(want)
	var got []string
	in := &chatsvcv1.ListKeysRequest{Parent: "teams/red", PageSize: 3}
	for {
		page := must[*chatsvcv1.ListKeysResponse](t)(c.ListKeys(admin, in))
		for _, k := range page.GetKeys() {
			got = append(got, k.GetName())
		}
		if page.GetNextPageToken() == "" {
			break
		}
		in.PageToken = page.GetNextPageToken()
		add("web")
	}
	if !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
	page := must[*chatsvcv1.ListKeysResponse](t)(c.ListKeys(admin, &chatsvcv1.ListKeysRequest{Parent: "teams/red/clients/app"}))
	if len(page.GetKeys()) != 2 || page.GetKeys()[0].GetName() != want[0] || page.GetNextPageToken() != "" {
		t.Errorf("the client's: %v", page)
	}
	_, err := c.ListKeys(admin, &chatsvcv1.ListKeysRequest{Parent: "teams/red/clients/app", PageToken: in.GetPageToken()})
	wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
}
