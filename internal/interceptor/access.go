package interceptor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// access is who may call a method: callers with one of the roles, or all whose credential is good.
type access struct {
	roles   tenant.Roles
	anyRole bool
}

func (a access) allows(roles tenant.Roles) bool { return a.anyRole || roles.HasAny(a.roles) }

// accessTable has the methods of our own services, as in chatsvc.v1.ChatService/CreateTurn. It is never changed.
type accessTable map[string]access

// ownMethods is read once from the descriptors that are compiled in. It is an error for as long as a method of the proto
// does not say who may call it, so that such a program does not start.
var ownMethods = sync.OnceValues(func() (accessTable, error) { return readAccess(protoregistry.GlobalFiles) })

// readAccess returns what the option `access` says of each method of our package. A method without it is an error that names
// it, as is one of which it says nothing, or two things.
func readAccess(files *protoregistry.Files) (accessTable, error) {
	table := accessTable{}
	var faults []error
	files.RangeFilesByPackage(chatsvcv1.File_chatsvc_v1_access_proto.Package(), func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := fmt.Sprintf("%s/%s", service.FullName(), service.Methods().Get(j).Name())
				a, err := accessOf(service.Methods().Get(j))
				if err != nil {
					faults = append(faults, fmt.Errorf("who may call %s: %w", name, err))
				}
				table[name] = a
			}
		}
		return true
	})
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return table, nil
}

func accessOf(method protoreflect.MethodDescriptor) (access, error) {
	option, ok := proto.GetExtension(method.Options(), chatsvcv1.E_Access).(*chatsvcv1.Access)
	if !ok || option == nil {
		return access{}, errors.New("the proto does not say, the option `access` is missing")
	}
	a := access{anyRole: option.GetAnyRole()}
	for _, role := range option.GetRoles() {
		if !tenant.Role(role).Valid() { // the two have the same numbers
			return access{}, fmt.Errorf("the option `access` names %s, which nobody has", role)
		}
		a.roles |= tenant.RolesOf(tenant.Role(role))
	}
	if a.anyRole == (a.roles != 0) {
		return access{}, errors.New("the option `access` must have either roles or any_role")
	}
	return a, nil
}

// check returns nil if a caller with roles may call a method, given as gRPC has it, with a leading slash. A method that is
// not in the table is refused to everybody.
func (t accessTable) check(fullMethod string, roles tenant.Roles) error {
	a, ok := t[strings.TrimPrefix(fullMethod, "/")]
	switch {
	case !ok:
		return conversation.Errorf(conversation.RoleMissing, "no role allows to call this method")
	case a.allows(roles):
		return nil
	case len(a.roles.List()) == 1:
		return conversation.Errorf(conversation.RoleMissing, "this method needs a credential with the role %s", a.roles)
	default:
		return conversation.Errorf(conversation.RoleMissing, "this method needs a credential with one of the roles %s", a.roles)
	}
}

// Methods returns the methods that a caller with roles may call, as in chatsvc.v1.ChatService/CreateTurn, in alphabetical
// order; on whichever listener they are served, and also those that answer NOT_IMPLEMENTED. It has none where ServerOptions
// returns an error.
func Methods(roles tenant.Roles) []string {
	table, err := ownMethods()
	if err != nil {
		return nil
	}
	var names []string
	for name, a := range table {
		if a.allows(roles) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// CheckServices returns an error that names each method, of the services that were registered with a server, of which the
// proto does not say who may call it. It is for before Serve: the call of such a method would be refused in any case, but
// nobody would know before somebody calls. Health and reflection have rules of their own.
func CheckServices(services map[string]grpc.ServiceInfo) error {
	table, err := ownMethods()
	if err != nil {
		return err
	}
	var faults []error
	for _, service := range slices.Sorted(maps.Keys(services)) {
		if service == healthService || isReflection(service) {
			continue
		}
		for _, method := range services[service].Methods {
			if _, ok := table[service+"/"+method.Name]; !ok {
				faults = append(faults, fmt.Errorf("%s/%s is served, but the proto does not say who may call it", service, method.Name))
			}
		}
	}
	return errors.Join(faults...)
}
