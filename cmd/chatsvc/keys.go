package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	// repeatTime is how long a key is asked for again whose answer was lost.
	repeatTime = 30 * time.Second
	// noteTime is how long whoever waits for a key is told nothing.
	noteTime = 2 * time.Second
)

// keysCommand groups the commands about keys.
type keysCommand struct {
	Create keysCreateCommand `cmd:"" help:"Make a key for a client and print it, this once."`
	List   keysListCommand   `cmd:"" help:"List the keys of a team or a client."`
	Get    keysGetCommand    `cmd:"" help:"Show a key, without its secret."`
	Rotate keysRotateCommand `cmd:"" help:"Make a key that takes the place of another, and print it, this once."`
	Revoke keysRevokeCommand `cmd:"" help:"End a key, within two seconds."`
}

// keyColumns returns the columns of keys; disabled are the names of the teams and clients whose keys do not work.
func keyColumns(disabled map[string]bool) []column[*chatsvcv1.Key] {
	return []column[*chatsvcv1.Key]{
		{"KEY", func(k *chatsvcv1.Key) string { return short(k.GetName()) }},
		{"STATE", func(k *chatsvcv1.Key) string {
			client, _, _ := strings.Cut(k.GetName(), "/keys/")
			team, _, _ := strings.Cut(client, "/clients/")
			switch {
			case k.GetState() != chatsvcv1.KeyState_KEY_STATE_ACTIVE:
				return enumName(k.GetState(), "KEY_STATE_")
			case disabled[team]:
				return "team disabled"
			case disabled[client]:
				return "client disabled"
			default:
				return "active"
			}
		}},
		{"ROLES", func(k *chatsvcv1.Key) string { return roleNames(k.GetRoles()) }},
		{"ENDS", func(k *chatsvcv1.Key) string { return cmp.Or(utc(k.GetRevokeTime()), utc(k.GetExpireTime())) }},
		{"DISPLAY NAME", (*chatsvcv1.Key).GetDisplayName},
	}
}

// enumName returns the name of a value as people write it.
func enumName(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}

func roleNames(roles []chatsvcv1.AccessRole) string {
	names := make([]string, len(roles))
	for i, role := range roles {
		names[i] = enumName(role, "ACCESS_ROLE_")
	}
	return strings.Join(names, ",")
}

// listKeys returns the keys of a team or a client, the newest first.
func (api controlPlane) listKeys(ctx context.Context, parent string) iter.Seq2[*chatsvcv1.Key, error] {
	return listed(func(token string) ([]*chatsvcv1.Key, string, error) {
		page, err := api.keys.ListKeys(ctx, &chatsvcv1.ListKeysRequest{Parent: parent, PageSize: pageSize, PageToken: token})
		return page.GetKeys(), page.GetNextPageToken(), err
	})
}

// disabledOwners returns the names of those that are disabled: a team and its clients, or a client and its team.
func (api controlPlane) disabledOwners(ctx context.Context, parent string) (map[string]bool, error) {
	name, _, isClient := strings.Cut(parent, "/clients/")
	team, err := api.teams.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: name})
	if err != nil {
		return nil, err
	}
	disabled := map[string]bool{name: team.GetDisabled()}
	clients := api.listClients(ctx, name)
	if isClient {
		clients = one(api.teams.GetClient(ctx, &chatsvcv1.GetClientRequest{Name: parent}))
	}
	for client, err := range clients {
		if err != nil {
			return nil, err
		}
		disabled[client.GetName()] = client.GetDisabled()
	}
	return disabled, nil
}

// keyOutput is the flags of the commands that make a key.
type keyOutput struct {
	Quiet bool `help:"Print the key and say nothing about it."`
	output
}

// print writes the key to stdout, and to stderr what a person has to know about it.
func (o *keyOutput) print(std stdio, key *chatsvcv1.Key, note string) error {
	if !o.Quiet {
		fmt.Fprintf(std.err, "%s (%s) works until %s%s. This is the only time that it is shown.\n",
			short(key.GetName()), roleNames(key.GetRoles()), utc(key.GetExpireTime()), note)
	}
	var err error
	if o.JSON {
		err = writeJSON(std.out, key)
	} else {
		_, err = io.WriteString(std.out, key.GetSecret()+"\n")
	}
	if err != nil {
		return fmt.Errorf("%s was made and could not be printed: %w; revoke it with: chatsvc keys revoke %[1]s", short(key.GetName()), err)
	}
	return nil
}

// role is a role by its name.
type role tenant.Role

// UnmarshalText takes the name of a role.
func (r *role) UnmarshalText(text []byte) error {
	parsed, err := tenant.ParseRole(string(text))
	*r = role(parsed)
	return err
}

// network is the addresses of a network in CIDR notation, or one address alone.
type network netip.Prefix

// UnmarshalText takes a network or an address.
func (n *network) UnmarshalText(text []byte) error {
	prefix, err := netip.ParsePrefix(string(text))
	if address, notOne := netip.ParseAddr(string(text)); notOne == nil && address.Zone() == "" {
		prefix, err = address.Prefix(address.BitLen())
	}
	if err != nil {
		return errors.New("must be an address or a network, such as 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32")
	}
	*n = network(prefix)
	return nil
}

// keysCreateCommand makes a key.
type keysCreateCommand struct {
	Client      clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	Role        []role     `sep:"none" placeholder:"ROLE" help:"What it allows: caller (the default), viewer, team_admin, platform_admin or auditor. Can be given several times."`
	Model       []string   `sep:"none" placeholder:"NAME" help:"Allow only this model. Can be given several times."`
	CIDR        []network  `name:"cidr" sep:"none" placeholder:"CIDR" help:"Allow only connections from these addresses, such as 10.0.0.0/8 or 10.0.0.1. Can be given several times."`
	ExpiresIn   *span      `placeholder:"DURATION" help:"How long it works, such as 24h or 90d: at most 366 days. Otherwise 60 days."`
	DisplayName string     `placeholder:"TEXT" help:"What people call it."`
	keyOutput
	control
}

// Run makes the key and prints it.
func (c *keysCreateCommand) Run(ctx context.Context, std stdio) error {
	request := &chatsvcv1.CreateKeyRequest{
		Parent:    string(c.Client),
		Key:       &chatsvcv1.Key{DisplayName: c.DisplayName, AllowedModels: c.Model},
		RequestId: uuid.NewString(),
	}
	for _, r := range c.Role {
		request.Key.Roles = append(request.Key.Roles, chatsvcv1.AccessRole(r))
	}
	for _, n := range c.CIDR {
		request.Key.AllowedCidrs = append(request.Key.AllowedCidrs, netip.Prefix(n).String())
	}
	if c.ExpiresIn != nil {
		request.Key.ExpireTime = timestamppb.New(time.Now().Add(time.Duration(*c.ExpiresIn)))
	}
	return c.call(func(api controlPlane) error {
		key, err := repeated(ctx, std.err, short(request.GetParent()), func(ctx context.Context, options ...grpc.CallOption) (*chatsvcv1.Key, error) {
			return api.keys.CreateKey(ctx, request, options...)
		})
		if err != nil {
			return err
		}
		return c.print(std, key, "")
	})
}

// keysListCommand lists keys.
type keysListCommand struct {
	Parent parentName `arg:"" name:"team[/client]" help:"The team, or the client as TEAM/CLIENT."`
	All    bool       `help:"Also the keys that have ended."`
	output
	control
}

// Run lists the keys, and says how many it has left out.
func (c *keysListCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		disabled, err := api.disabledOwners(ctx, string(c.Parent))
		if err != nil {
			return err
		}
		ended := 0
		err = show(std, c.output, keyColumns(disabled), func(yield func(*chatsvcv1.Key, error) bool) {
			for key, err := range api.listKeys(ctx, string(c.Parent)) {
				if err == nil && !c.All && key.GetState() != chatsvcv1.KeyState_KEY_STATE_ACTIVE {
					ended++
					continue
				}
				if !yield(key, err) {
					return
				}
			}
		})
		if err == nil && ended > 0 && !c.JSON {
			fmt.Fprintf(std.err, "chatsvc: %s not listed: see --all\n", counted(ended, "key that has ended is", "keys that have ended are"))
		}
		return err
	})
}

// keysGetCommand shows a key.
type keysGetCommand struct {
	Key keyName `arg:"" name:"team/client/key" help:"The key, as TEAM/CLIENT/KEY: its id, not the secret."`
	output
	control
}

// Run prints all there is to know of the key.
func (c *keysGetCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		key, err := api.keys.GetKey(ctx, &chatsvcv1.GetKeyRequest{Name: string(c.Key)})
		if err != nil {
			return err
		}
		client, _, _ := strings.Cut(string(c.Key), "/keys/")
		disabled, err := api.disabledOwners(ctx, client)
		if err != nil {
			return err
		}
		more := []column[*chatsvcv1.Key]{
			{"CREATED", func(k *chatsvcv1.Key) string { return utc(k.GetCreateTime()) }},
			{"REPLACED BY", func(k *chatsvcv1.Key) string { return short(k.GetReplacedBy()) }},
			{"MODELS", func(k *chatsvcv1.Key) string { return orAll(k.GetAllowedModels()) }},
			{"ADDRESSES", func(k *chatsvcv1.Key) string { return orAll(k.GetAllowedCidrs()) }},
		}
		if err := show(std, c.output, keyColumns(disabled), one(key, nil)); err != nil || c.JSON {
			return err
		}
		return showNext(std, c.output, more, one(key, nil))
	})
}

func orAll(list []string) string {
	if len(list) == 0 {
		return "all"
	}
	return strings.Join(list, ",")
}

// keysRotateCommand replaces a key.
type keysRotateCommand struct {
	Key     keyName `arg:"" name:"team/client/key" help:"The key, as TEAM/CLIENT/KEY: its id, not the secret."`
	Overlap *span   `placeholder:"DURATION" help:"How long the old key still works, such as 0s or 7d: at most 30 days. Otherwise 24 hours."`
	keyOutput
	control
}

// Run makes the new key and prints it.
func (c *keysRotateCommand) Run(ctx context.Context, std stdio) error {
	request, overlap := &chatsvcv1.RotateKeyRequest{Name: string(c.Key), RequestId: uuid.NewString()}, tenant.DefaultOverlap
	if c.Overlap != nil {
		overlap = time.Duration(*c.Overlap)
		request.Overlap = durationpb.New(overlap)
	}
	return c.call(func(api controlPlane) error {
		key, err := repeated(ctx, std.err, path.Dir(short(string(c.Key))), func(ctx context.Context, options ...grpc.CallOption) (*chatsvcv1.Key, error) {
			return api.keys.RotateKey(ctx, request, options...)
		})
		if err != nil {
			return err
		}
		note := fmt.Sprintf("; %s, whose place it takes, for another %s at most", short(string(c.Key)), span(overlap))
		if overlap == 0 {
			note = fmt.Sprintf("; %s, whose place it takes, has ended", short(string(c.Key)))
		}
		return c.print(std, key, note)
	})
}

// keysRevokeCommand ends a key.
type keysRevokeCommand struct {
	Key keyName `arg:"" name:"team/client/key" help:"The key, as TEAM/CLIENT/KEY: its id, not the secret."`
	output
	control
}

// Run ends the key and prints it.
func (c *keysRevokeCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		return show(std, c.output, keyColumns(nil), one(api.keys.RevokeKey(ctx, &chatsvcv1.RevokeKeyRequest{Name: string(c.Key)})))
	})
}

// repeated makes a call that makes a key, and repeats it while its answer may have been lost: the request's id sees to it that
// there is one key in the end, and that it is the one that is answered. What was never sent is not repeated: the service is not
// there, and a person who waits does not see why. When it takes long, notes gets a line that says so.
func repeated(ctx context.Context, notes io.Writer, client string, call func(context.Context, ...grpc.CallOption) (*chatsvcv1.Key, error)) (*chatsvcv1.Key, error) {
	var noting sync.WaitGroup
	defer noting.Wait()
	ctx, cancel := context.WithTimeout(ctx, repeatTime)
	defer cancel()
	noting.Go(func() {
		select {
		case <-time.After(noteTime):
			_, _ = fmt.Fprintf(notes, "chatsvc: no answer yet; it is asked for %v at most\n", repeatTime)
		case <-ctx.Done():
		}
	})
	sent := false
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var to peer.Peer
		key, err := call(ctx, grpc.Peer(&to))
		sent = sent || to.Addr != nil
		failure, ok := errors.AsType[*callError](err)
		if err == nil || !sent || !ok || !failure.undecided() {
			return key, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; whether there is a new key is not known: see chatsvc keys list %s", err, client)
		}
	}
}
