package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Every string field of a request is one of these: its name says that it identifies something that exists, or it is one of
// handles, or it stands in freeText.
var identifies = []string{
	"name", "parent", "conversation", "turn", "base_turn", "head_turn", "active_turn", "message", "team", "client", "key", "replaced_by",
	"names", "conversations", "turns", "messages", "teams", "clients", "keys", "limit",
}

// handles are found by all of their name, and looked at by tests of their own.
var handles = []string{"page_token", "request_id"}

// freeText says which string fields hold no identifier of anything that exists, and why. They are named by their message, or by
// their way from a request.
var freeText = map[string]string{
	"CreateTurnRequest.text":         "what is said",
	"CreateTurnRequest.instructions": "what is said",
	"CreateTurnRequest.model":        "a model is nobody's",
	"CreateTurnRequest.labels":       "the caller's own",
	"Conversation.display_name":      "for people",
	"Conversation.instructions":      "what is said",
	"Conversation.model":             "a model is nobody's",
	"Conversation.labels":            "the caller's own",
	"Conversation.active_turn":       "output only",
	"Conversation.etag":              "only compared, with that of the resource that is named",
	"DeleteConversationRequest.etag": "only compared, with that of the resource that is named",

	"CreateConversationRequest.conversation.name":      "ignored: it is yet to be made",
	"CreateConversationRequest.conversation.head_turn": "refused, whatever it is: there are no turns yet",

	"Message.name":                 "ignored on input",
	"Part.text":                    "what is said",
	"Refusal.text":                 "what is said",
	"Reasoning.summary":            "what is said",
	"Image.uri":                    "passed on, never fetched",
	"Image.mime_type":              "one of a few",
	"ToolCall.id":                  "names a call within the history",
	"ToolCall.name":                "names a function of the caller",
	"ToolCall.arguments_json":      "what is said",
	"ToolResult.tool_call_id":      "names a call within the history",
	"ToolResult.text":              "what is said",
	"Tool.name":                    "names a function of the caller",
	"Tool.description":             "what is said",
	"Tool.parameters_json":         "a schema of the caller",
	"ToolChoice.tool":              "names a function of the request",
	"GenerationConfig.stop":        "what is said",
	"JsonSchemaFormat.name":        "names the schema beside it",
	"JsonSchemaFormat.description": "what is said",
	"JsonSchemaFormat.schema_json": "a schema of the caller",
	"FieldMask.paths":              "fields of the message beside it",

	"QueryUsageRequest.label": "the caller's own",

	"CreateTeamRequest.team_id":        "is yet to be made, by those who see all teams",
	"CreateTeamRequest.team.name":      "ignored: it is yet to be made",
	"CreateClientRequest.client_id":    "is yet to be made, in the team that parent names",
	"CreateClientRequest.client.name":  "ignored: it is yet to be made",
	"CreateKeyRequest.key.name":        "output only",
	"Team.display_name":                "for people",
	"Team.etag":                        "only compared, with that of the resource that is named",
	"Client.display_name":              "for people",
	"Client.etag":                      "only compared, with that of the resource that is named",
	"Key.display_name":                 "for people",
	"Key.allowed_models":               "a model is nobody's",
	"Key.allowed_cidrs":                "addresses",
	"Key.replaced_by":                  "output only",
	"Key.secret":                       "output only",
	"ListAuditEntriesRequest.order_by": "one of two",
}

// way is how a string field is reached from a request: fields, the last of which is it.
type way []protoreflect.FieldDescriptor

// String returns the way by names, such as UpdateTeamRequest.team.name.
func (w way) String() string {
	text := string(w[0].Parent().Name())
	for _, f := range w {
		text += "." + string(f.Name())
	}
	return text
}

// last returns the field with the message that it is of.
func (w way) last() (field protoreflect.Name, inMessage string) {
	f := w[len(w)-1]
	return f.Name(), string(f.Parent().Name()) + "." + string(f.Name())
}

// set sets the field, in a message where the way begins.
func (w way) set(m protoreflect.Message, value string) {
	for _, f := range w[:len(w)-1] {
		if f.IsList() {
			m = m.Mutable(f).List().AppendMutable().Message()
			continue
		}
		m = m.Mutable(f).Message()
	}
	switch f := w[len(w)-1]; {
	case f.IsList():
		m.Mutable(f).List().Append(protoreflect.ValueOfString(value))
	default:
		m.Set(f, protoreflect.ValueOfString(value))
	}
}

// stringFields returns the ways to all string fields below a message, also those within other messages. A map counts as one.
func stringFields(m protoreflect.MessageDescriptor, to way) (all []way) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		next := append(slices.Clone(to), f)
		switch {
		case f.IsMap():
			if f.MapKey().Kind() == protoreflect.StringKind || f.MapValue().Kind() == protoreflect.StringKind {
				all = append(all, next)
			}
			if inner := f.MapValue().Message(); inner != nil {
				all = append(all, stringFields(inner, next)...)
			}
		case f.Kind() == protoreflect.StringKind:
			all = append(all, next)
		case f.Message() != nil && !slices.ContainsFunc(to, func(above protoreflect.FieldDescriptor) bool { return above.Parent() == f.Message() }):
			all = append(all, stringFields(f.Message(), next)...)
		}
	}
	return all
}

// identifiers returns the ways to the fields of a method's request that identify what exists.
func identifiers(t *testing.T, m rpc, used map[string]bool) (names []way) {
	t.Helper()
	for _, w := range stringFields(m.method.Input(), nil) {
		field, inMessage := w.last()
		if _, ok := freeText[inMessage]; ok {
			used[inMessage] = true
			continue
		}
		if _, ok := freeText[w.String()]; ok {
			used[w.String()] = true
			continue
		}
		switch {
		case slices.Contains(handles, string(field)):
			if len(w) > 1 && w.String() != "EstimateTurnRequest.turn.request_id" {
				t.Errorf("%s: %s is not where the tests of page tokens and request ids look", m.name(), w)
			}
		case slices.Contains(identifies, string(field)):
			names = append(names, w)
		default:
			t.Errorf("%s: does %s identify what a team has? Say so in identifies, or why not in freeText", m.name(), w)
		}
	}
	return names
}

// Every field of every request that can name what a team has answers another team's name exactly as one that nobody has, and
// nothing happens to what it names.
func TestTeamsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	p := serve(t, governed("log:\n  level: error\n"))
	everything := []chatsvcv1.AccessRole{roleCaller, roleViewer, roleTeamAdmin, rolePlatform, roleAuditor}
	own := []chatsvcv1.AccessRole{roleCaller, roleViewer, roleTeamAdmin} // what a team may do at most
	red, blue := furnish(t, p, "red-team", everything...), furnish(t, p, "blue-team", own...)
	before, itself := red.all(t), blue.all(t)
	methods := rpcs(t, p)
	used := make(map[string]bool)
	fields := 0
	for _, m := range methods {
		names := identifiers(t, m, used)
		for _, w := range names {
			fields++
			seen := make(map[codes.Code]int)
			for _, pair := range red.pairs(blue) {
				var answers [2]*status.Status
				for i, name := range pair {
					request := blue.request(t, m)
					w.set(request, name)
					_, err := m.call(t.Context(), blue.conn(m), request)
					answers[i] = status.Convert(err)
				}
				seen[answers[0].Code()]++
				if !proto.Equal(answers[0].Proto(), answers[1].Proto()) {
					t.Errorf("%s, %s: %s answers\n%v\nand %s\n%v", m.name(), w, pair[0], answers[0].Proto(), pair[1], answers[1].Proto())
				}
				if answers[0].Code() == codes.NotFound {
					wantReason(t, answers[0].Err(), codes.NotFound, "NOT_FOUND")
				}
			}
			allowed := slices.ContainsFunc(own, m.admits)
			switch {
			case seen[codes.OK] > 0:
				t.Errorf("%s, %s: another team's name is answered with success", m.name(), w)
			case !allowed && len(seen) == 1 && seen[codes.PermissionDenied] > 0: // asks for a role first
			case seen[codes.Unimplemented] > 0 && seen[codes.Unimplemented]+seen[codes.InvalidArgument] == len(red.pairs(blue)): // in this release
			case seen[codes.NotFound] == 0:
				t.Errorf("%s, %s: no name is not found: %v; does it identify anything? Else add a request to requests", m.name(), w, seen)
			}
		}
	}
	t.Logf("%d fields of %d methods", fields, len(methods))
	for field := range freeText {
		if !used[field] {
			t.Errorf("freeText has %s, which no request has", field)
		}
	}

	compare := func(h *household, before map[string]proto.Message) {
		after := h.all(t)
		for _, what := range slices.Sorted(maps.Keys(before)) {
			if !proto.Equal(before[what], after[what]) {
				t.Errorf("of %s, %s was\n%v\nand is\n%v", h.team, what, before[what], after[what])
			}
		}
	}
	compare(red, before)
	compare(blue, itself)

	t.Run("page tokens", func(t *testing.T) { foreignPages(t, methods, red, blue) })
	t.Run("request ids", func(t *testing.T) { foreignRequestIDs(t, methods, red, blue) })
}

// foreignPages has every list refuse another team's page tokens, and show nothing of what is another team's.
func foreignPages(t *testing.T, methods []rpc, red, blue *household) {
	t.Helper()
	lists := 0
	for _, m := range methods {
		size, token := m.method.Input().Fields().ByName("page_size"), m.method.Input().Fields().ByName("page_token")
		if size == nil || token == nil {
			continue
		}
		page := red.request(t, m)
		page.Set(size, protoreflect.ValueOfInt32(1))
		answer, err := m.call(t.Context(), red.conn(m), page)
		if status.Code(err) == codes.Unimplemented {
			continue
		}
		if err != nil {
			t.Errorf("%s as %s: %v", m.name(), red.team, err)
			continue
		}
		next := answer.ProtoReflect().Get(m.method.Output().Fields().ByName("next_page_token")).String()
		if next == "" {
			t.Errorf("%s: %s has not enough for two pages: %v", m.name(), red.team, answer)
			continue
		}
		lists++
		page.Set(token, protoreflect.ValueOfString(next))
		if _, err := m.call(t.Context(), red.conn(m), page); err != nil {
			t.Errorf("%s, second page of %s: %v", m.name(), red.team, err)
		}
		request := blue.request(t, m)
		request.Set(size, protoreflect.ValueOfInt32(1))
		answer, err = m.call(t.Context(), blue.conn(m), request)
		if err != nil {
			t.Errorf("%s as %s: %v", m.name(), blue.team, err)
		}
		if found := namesIn(answer, red); len(found) > 0 {
			t.Errorf("%s shows %s what is another team's: %v", m.name(), blue.team, found)
		}
		request.Set(token, protoreflect.ValueOfString(next))
		_, err = m.call(t.Context(), blue.conn(m), request)
		wantReason(t, err, codes.InvalidArgument, "INVALID_REQUEST")
	}
	if lists < 7 {
		t.Errorf("only %d lists were found", lists)
	}
}

// foreignRequestIDs has every request_id be its team's own: two teams that use the same one get two results.
func foreignRequestIDs(t *testing.T, methods []rpc, red, blue *household) {
	t.Helper()
	found := 0
	for _, m := range methods {
		field := m.method.Input().Fields().ByName("request_id")
		if field == nil {
			continue
		}
		found++
		id := uuid.NewString()
		if m.method.Input().Fields().ByName("page_token") != nil { // a list: the id is of a turn that only one of them has
			turn, err := red.data.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{RequestId: id, Text: "hi"})
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range []*household{red, blue} {
				request := h.request(t, m)
				request.Set(field, protoreflect.ValueOfString(id))
				answer, err := m.call(t.Context(), h.conn(m), request)
				if seen := resources.FindAllString(prototext.Format(answer), -1); err != nil || slices.Contains(seen, turn.GetName()) != (h == red) {
					t.Errorf("%s shows %s %v, %v", m.name(), h.team, seen, err)
				}
			}
			continue
		}
		var made [2][]string
		for i, h := range []*household{red, blue, red, blue} { // and again: each gets its own
			request := h.request(t, m)
			request.Set(field, protoreflect.ValueOfString(id))
			answer, err := m.call(t.Context(), h.conn(m), request)
			if err != nil {
				t.Errorf("%s as %s: %v", m.name(), h.team, err)
				continue
			}
			names := resources.FindAllString(prototext.Format(answer), -1)
			names = slices.DeleteFunc(names, func(name string) bool { return name == h.conversation || name == h.head })
			switch {
			case len(names) == 0:
				t.Errorf("%s as %s made nothing: %v", m.name(), h.team, answer)
			case i < 2:
				made[i] = names
			case !slices.Equal(names, made[i-2]):
				t.Errorf("%s as %s, again: %v, and before %v", m.name(), h.team, names, made[i-2])
			}
		}
		if slices.ContainsFunc(made[0], func(name string) bool { return slices.Contains(made[1], name) }) {
			t.Errorf("%s: two teams have %v and %v", m.name(), made[0], made[1])
		}
	}
	if found < 5 {
		t.Errorf("only %d methods with a request_id were found", found)
	}
}

// resources finds the names of resources in a text, and the secrets of keys.
var resources = regexp.MustCompile(`(?:turns|conversations|messages)/[0-9a-f-]{36}|teams/[a-z0-9-]+/clients/[a-z0-9-]+/keys/[a-z2-7]+|csk_[a-z2-7_]+`)

// namesIn returns what an answer says of a household.
func namesIn(answer proto.Message, h *household) (found []string) {
	text := prototext.Format(answer)
	for _, name := range []string{h.conversation, h.head, h.oneShot, h.running, "teams/" + h.team, "of-" + h.team, "secret of " + h.team} {
		if strings.Contains(text, name) {
			found = append(found, name)
		}
	}
	return found
}

// A platform admin governs all teams and reads nothing of what they say: not even in its own name.
func TestPlatformAdminsDoNotReadConversations(t *testing.T) {
	t.Parallel()
	p := serve(t, governed("log:\n  level: error\n"))
	red := furnish(t, p, "red-team", roleCaller, roleTeamAdmin)
	platform := p.governs(t, platformKey)
	keys := map[string]string{
		"the platform's": platformKey,
		"of the team":    platform.keyWith(t, "red-team/web", rolePlatform),
		"all but those of callers and viewers": platform.keyWith(t, "red-team/web",
			roleTeamAdmin, rolePlatform, roleAuditor),
	}
	refused := 0
	for whose, key := range keys {
		conn := p.dial(t, key).conn
		for _, m := range rpcs(t, p) {
			if m.admin || m.method.Parent().Name() == "CallerService" {
				continue
			}
			refused++
			for _, request := range []proto.Message{nil, red.request(t, m)} {
				_, err := m.call(t.Context(), conn, request)
				if err == nil {
					t.Errorf("%s with the key %s is let in", m.name(), whose)
					continue
				}
				wantReason(t, err, codes.PermissionDenied, "ROLE_MISSING")
			}
		}
	}
	if refused < 3*15 {
		t.Errorf("only %d methods", refused)
	}
	// Nor does anything that they may read hold it.
	for _, m := range rpcs(t, p) {
		if !m.admin || m.method.Input().Fields().ByName("page_token") == nil {
			continue
		}
		answer, err := m.call(t.Context(), platform.conn, red.request(t, m))
		if text := fmt.Sprint(answer); err != nil || strings.Contains(text, "a secret of") || strings.Contains(text, red.conversation) {
			t.Errorf("%s: %v\n%s", m.name(), err, text)
		}
	}
}
