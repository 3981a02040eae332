package tenant

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strings"
)

// Role is something that a credential allows. The numbers are those of AccessRole in the API; as wide as there, so that
// none of another becomes one by being converted.
type Role int32

// The roles. None includes another.
const (
	RoleCaller        Role = iota + 1 // starts turns, and reads and changes its team's conversations
	RoleViewer                        // reads its team's turns and conversations
	RoleTeamAdmin                     // manages its team's clients and keys
	RolePlatformAdmin                 // manages all teams
	RoleAuditor                       // reads teams, keys and the audit
)

var roleNames = [...]string{RoleCaller: "caller", RoleViewer: "viewer", RoleTeamAdmin: "team_admin", RolePlatformAdmin: "platform_admin", RoleAuditor: "auditor"}

// String returns the role's name.
func (r Role) String() string {
	if !r.Valid() {
		return fmt.Sprintf("role(%d)", int32(r))
	}
	return roleNames[r]
}

// Valid reports whether there is such a role.
func (r Role) Valid() bool { return RoleCaller <= r && r <= RoleAuditor }

// ParseRole returns the role with a name.
func ParseRole(name string) (Role, error) {
	for r := RoleCaller; r <= RoleAuditor; r++ {
		if roleNames[r] == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("no such role: use %s", strings.Join(roleNames[1:], ", "))
}

// Roles is a set of roles.
type Roles uint8

// RolesOf returns the set of some roles.
func RolesOf(roles ...Role) (set Roles) {
	for _, r := range roles {
		set |= 1 << r
	}
	return set
}

// Has reports whether r is one of them.
func (s Roles) Has(r Role) bool { return s&(1<<r) != 0 }

// HasAny reports whether they have one in common.
func (s Roles) HasAny(other Roles) bool { return s&other != 0 }

// List returns the roles in order.
func (s Roles) List() []Role {
	list := make([]Role, 0, bits.OnesCount8(uint8(s)))
	for r := RoleCaller; r <= RoleAuditor; r++ {
		if s.Has(r) {
			list = append(list, r)
		}
	}
	return list
}

// MayGrant reports whether a caller with the roles s may make a key with the others: a platform admin any, a team admin those
// that reach no further than a team.
func (s Roles) MayGrant(others Roles) bool {
	return s.Has(RolePlatformAdmin) || s.Has(RoleTeamAdmin) && others&^RolesOf(RoleCaller, RoleViewer, RoleTeamAdmin) == 0
}

// String returns the names, separated by commas.
func (s Roles) String() string {
	names := make([]string, 0, len(roleNames))
	for _, r := range s.List() {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

// MarshalJSON returns the names as a list.
func (s Roles) MarshalJSON() ([]byte, error) {
	names := make([]string, 0, len(roleNames))
	for _, r := range s.List() {
		names = append(names, r.String())
	}
	return json.Marshal(names)
}

// UnmarshalJSON takes a list of names.
func (s *Roles) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	*s = 0
	for _, name := range names {
		r, err := ParseRole(name)
		if err != nil {
			return err
		}
		*s |= RolesOf(r)
	}
	return nil
}
