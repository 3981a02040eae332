// Package archtest holds no code, only the test that keeps the direction of imports: one table of arrows that may
// not exist, each with its reason. Imports of test files are free.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/chatsvc/chatsvc"

// A pattern is written as for the go command: "./internal/turn" is one package of this module, "./internal/turn/..."
// that package and all below it, and a path without "./" is another module's. "std" is the standard library, "..." is
// everything. Patterns may name packages that do not exist.
type pattern = string

// A rule refuses every import of a package in to (less notTo) by a package in from (less notFrom).
type rule struct {
	from, notFrom []pattern
	to, notTo     []pattern
	why           string
	// example is an arrow that the rule refuses, [from, to]; it proves that the rule can fail.
	example [2]pattern
}

var (
	all = []pattern{"..."}

	// adapters are the implementations behind a contract.
	adapters = []pattern{
		"./internal/conversation/sqlstore/...",
		"./internal/provider/openai/...",
		"./internal/provider/openaisim/...",
	}

	// upper are the layers that use contracts, from the engine up to the program.
	upper = []pattern{
		"./internal/turn/...",
		"./internal/service/...",
		"./internal/interceptor/...",
		"./chatclient/...",
		"./cmd/...",
	}

	// testSupport is what tests of several packages use, and so cannot be in test files.
	testSupport = []pattern{
		"./internal/auth/authtest/...",
		"./internal/certtest/...",
		"./internal/conversation/storetest/...",
		"./internal/netfault/...",
		"./internal/pgtest/...",
		"./internal/provider/providertest/...",
		"./internal/telemetry/otlptest/...",
		"./internal/tenant/tenanttest/...",
	}

	grpc = []pattern{
		"google.golang.org/grpc/...",
		"google.golang.org/genproto/...",
		"github.com/grpc-ecosystem/go-grpc-middleware/...",
		"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/...",
		"./gen/...",
	}
)

var rules = []rule{
	{
		from: []pattern{"./internal/conversation", "./internal/quota", "./internal/window", "./internal/pricing"},
		to:   all, notTo: []pattern{"std"},
		why:     "the vocabulary and the arithmetic import only the standard library: they are understood and tested alone, and outlive every library",
		example: [2]pattern{"./internal/window", "./internal/tokens"},
	},
	{
		from: []pattern{"./internal/tokens"},
		to:   all, notTo: []pattern{"std", "github.com/tiktoken-go/tokenizer/..."},
		why:     "tokens is pure: the standard library and its tokenizer",
		example: [2]pattern{"./internal/tokens", "./internal/conversation"},
	},
	{
		from: []pattern{"./internal/watched", "./internal/certtest"},
		to:   all, notTo: []pattern{"std"},
		why:     "files and certificates are the same for everyone: what is in them, who uses them knows",
		example: [2]pattern{"./internal/watched", "./internal/auth"},
	},
	{
		from: []pattern{"./internal/tenant"},
		to:   all,
		notTo: []pattern{
			"std", "./internal/conversation", "github.com/google/uuid", "golang.org/x/sync/...", "golang.org/x/time/...",
		},
		why: "tenant is the rules of who may call, and the contract of what keeps them: of ours it knows the vocabulary of errors and " +
			"ids, and neither the credentials nor the storage",
		example: [2]pattern{"./internal/tenant", "./internal/auth"},
	},
	{
		from: all,
		notFrom: []pattern{
			"./gen/...", "./internal/service/...", "./internal/interceptor/...", "./cmd/...", "./chatclient/...", "./bench/...",
			"./internal/telemetry/otlptest", // a receiver of OTLP, which is gRPC
		},
		to:      grpc,
		why:     "only service, interceptor, cmd, chatclient and bench know gRPC and the generated code: inside, there are domain values and domain errors",
		example: [2]pattern{"./internal/auth", "google.golang.org/grpc/metadata"},
	},
	{
		from: all, notFrom: []pattern{"./internal/provider/openai/...", "./bench/..."},
		to:      []pattern{"github.com/sashabaranov/go-openai/..."},
		why:     "only provider/openai knows go-openai, so that its traps have one way round (bench measures it bare, as the floor)",
		example: [2]pattern{"./internal/provider/openaisim", "github.com/sashabaranov/go-openai"},
	},
	{
		from: all, notFrom: []pattern{"./internal/auth/..."},
		to:      []pattern{"github.com/go-jose/go-jose/...", "github.com/golang-jwt/jwt/..."},
		why:     "only auth reads tokens, so that what makes one good is decided in one place; everyone else is given a Principal",
		example: [2]pattern{"./internal/interceptor", "github.com/go-jose/go-jose/v4"},
	},
	{
		from: all, notFrom: []pattern{"./internal/conversation/sqlstore/...", "./bench/..."},
		to:      []pattern{"database/sql/...", "modernc.org/sqlite/...", "github.com/pressly/goose/..."},
		why:     "only sqlstore knows SQL: everyone else sees the Store contract and its sentinel errors (bench measures databases bare)",
		example: [2]pattern{"./internal/turn", "database/sql"},
	},
	{
		from: all, notFrom: []pattern{"./internal/conversation/sqlstore/...", "./internal/pgtest", "./bench/..."},
		to:      []pattern{"github.com/jackc/pgx/..."},
		why:     "only sqlstore knows PostgreSQL, and pgtest, which makes databases for tests",
		example: [2]pattern{"./cmd/chatsvc", "github.com/jackc/pgx/v5"},
	},
	{
		from: all, notFrom: slices.Concat(testSupport, []pattern{"./bench/..."}),
		to:      testSupport,
		why:     "what supports tests is for tests and bench: a program that runs it by accident starts servers, or breaks connections",
		example: [2]pattern{"./cmd/chatsvc", "./internal/netfault"},
	},
	{
		from: testSupport,
		to:   upper, notTo: []pattern{"./chatclient/..."},
		why:     "what supports tests is below everything that it tests",
		example: [2]pattern{"./internal/pgtest", "./cmd/chatsvc"},
	},
	{
		from:    []pattern{"./internal/conversation/sqlstore/..."},
		to:      slices.Concat(upper, []pattern{"./internal/provider/..."}),
		why:     "a store implements the contract in conversation: it knows neither who calls it nor the other adapters",
		example: [2]pattern{"./internal/conversation/sqlstore", "./internal/turn"},
	},
	{
		from:    []pattern{"./internal/provider/..."},
		to:      slices.Concat(upper, []pattern{"./internal/conversation/sqlstore/..."}),
		why:     "a provider implements the contract in provider: it knows neither who calls it nor the other adapters",
		example: [2]pattern{"./internal/provider/openai", "./internal/conversation/sqlstore"},
	},
	{
		from:    []pattern{"./internal/provider/openaisim/..."},
		to:      []pattern{"./internal/provider", "./internal/provider/openai/..."},
		why:     "the simulator is on the other side of the wire: code shared with the adapter would hide that both are wrong",
		example: [2]pattern{"./internal/provider/openaisim", "./internal/provider/openai"},
	},
	{
		from: all, notFrom: slices.Concat(adapters, []pattern{"./cmd/...", "./bench/...", "./internal/provider/providertest"}),
		to:      adapters,
		why:     "only cmd chooses implementations; everyone else is given the contract (a provider's suite brings the other side of its wire)",
		example: [2]pattern{"./internal/turn", "./internal/provider/openai"},
	},
	{
		from: all, notFrom: []pattern{"./internal/service/...", "./internal/interceptor/...", "./cmd/...", "./bench/..."},
		to:      []pattern{"./internal/service/...", "./internal/interceptor/..."},
		why:     "arrows go down: cmd → service, interceptor → turn → conversation",
		example: [2]pattern{"./internal/turn", "./internal/service"},
	},
	{
		from: []pattern{"./chatclient/..."},
		to:   all,
		notTo: []pattern{
			"std", "./gen/...", "./chatclient/...", "github.com/google/uuid",
			"google.golang.org/grpc/...", "google.golang.org/genproto/...", "google.golang.org/protobuf/...",
		},
		why:     "chatclient is public: its consumers could not name an internal type, and take on each of its dependencies",
		example: [2]pattern{"./chatclient", "./internal/conversation"},
	},
}

// vagueNames tell a reader nothing about what is in the package, and so collect everything.
var vagueNames = []string{"common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		for _, imported := range pkg.Imports {
			if why := refuse(pkg.ImportPath, imported); why != "" {
				t.Errorf("%s → %s\n\t%s", short(pkg.ImportPath), short(imported), why)
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		if name, vague := vagueName(pkg); vague {
			t.Errorf("%s: a package named %q says nothing about what is in it; name it for what it provides", short(pkg.ImportPath), name)
		}
	}
}

func TestRulesRefuse(t *testing.T) {
	t.Parallel()
	for _, rule := range rules {
		from, to := expand(rule.example[0]), expand(rule.example[1])
		if !rule.refuses(from, to) {
			t.Errorf("%s → %s is not refused, although: %s", short(from), short(to), rule.why)
		}
		if refuse(from, to) == "" {
			t.Errorf("%s → %s is allowed by the table, although: %s", short(from), short(to), rule.why)
		}
	}
}

func TestRulesAllow(t *testing.T) {
	t.Parallel()
	for _, arrow := range [][2]pattern{
		{"./internal/conversation", "time"},
		{"./internal/conversation/sqlstore", "./internal/conversation"},
		{"./internal/conversation/sqlstore/postgres", "github.com/jackc/pgx/v5/pgxpool"},
		{"./internal/conversation/sqlstore", "./internal/tenant"},
		{"./internal/conversation/storetest", "testing"},
		{"./internal/tenant", "./internal/conversation"},
		{"./internal/tenant", "golang.org/x/sync/singleflight"},
		{"./internal/tenant/tenanttest", "./internal/tenant"},
		{"./internal/auth", "./internal/tenant"},
		{"./internal/auth", "./internal/watched"},
		{"./internal/config", "./internal/watched"},
		{"./internal/auth", "github.com/go-jose/go-jose/v4/jwt"},
		{"./internal/auth/authtest", "github.com/golang-jwt/jwt/v5"},
		{"./internal/interceptor", "./internal/auth"},
		{"./internal/tokens", "github.com/tiktoken-go/tokenizer/codec"},
		{"./internal/turn", "./internal/provider"},
		{"./internal/provider/openai", "github.com/sashabaranov/go-openai"},
		{"./internal/interceptor", "google.golang.org/grpc"},
		{"./internal/service", "./gen/chatsvc/v1"},
		{"./cmd/chatsvc", "./internal/conversation/sqlstore"},
		{"./bench", "./internal/pgtest"},
		{"./internal/pgtest", "github.com/jackc/pgx/v5/pgconn"},
		{"./chatclient", "./gen/chatsvc/v1"},
		{"./chatclient", "google.golang.org/grpc/codes"},
	} {
		from, to := expand(arrow[0]), expand(arrow[1])
		if why := refuse(from, to); why != "" {
			t.Errorf("%s → %s is refused: %s", short(from), short(to), why)
		}
	}
}

func TestVagueName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path, name string
		vague      bool
	}{
		{"./internal/util", "strs", true},
		{"./internal/shared/turns", "turns", true},
		{"./internal/turn", "helpers", true},
		{"./internal/turn", "turn", false},
		{"./internal/sharedlog", "sharedlog", false},
	} {
		if _, vague := vagueName(goPackage{ImportPath: expand(tt.path), Name: tt.name}); vague != tt.vague {
			t.Errorf("vagueName(%s, package %s) = %t, want %t", tt.path, tt.name, vague, tt.vague)
		}
	}
}

// refuse returns why from must not import to, or "" when it may.
func refuse(from, to string) string {
	for _, rule := range rules {
		if rule.refuses(from, to) {
			return rule.why
		}
	}
	return ""
}

func (r rule) refuses(from, to string) bool {
	return matches(r.from, from) && !matches(r.notFrom, from) && matches(r.to, to) && !matches(r.notTo, to)
}

func matches(patterns []pattern, path string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool {
		if p == "std" {
			// The go command's own distinction: only the standard library has no dot in its first element.
			first, _, _ := strings.Cut(path, "/")
			return !strings.Contains(first, ".")
		}
		p = expand(p)
		if p == "..." || p == path {
			return true
		}
		parent, isTree := strings.CutSuffix(p, "/...")
		return isTree && (path == parent || strings.HasPrefix(path, parent+"/"))
	})
}

// expand turns "./x" into an import path of this module.
func expand(p pattern) string {
	if rest, ours := strings.CutPrefix(p, "./"); ours {
		return module + "/" + rest
	}
	return p
}

// short is the inverse of expand, for messages.
func short(path string) string { return strings.TrimPrefix(path, module+"/") }

func vagueName(pkg goPackage) (string, bool) {
	for name := range strings.SplitSeq(short(pkg.ImportPath)+"/"+pkg.Name, "/") {
		if slices.Contains(vagueNames, name) {
			return name, true
		}
	}
	return "", false
}

// A goPackage is what this test reads of go list's answer. Imports leaves out what only test files import.
type goPackage struct {
	ImportPath, Name, Dir string
	Imports               []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	// -e: arrows are judged also where a package does not compile, which is for the compiler to report.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Dir,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg goPackage
		if err := dec.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode the answer of go list: %v", err)
		}
		pkgs = append(pkgs, pkg)
	}
	if err := watch(root, pkgs); err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// watch opens every folder from the packages up to root. The go command repeats a cached "ok" while no file changed
// that the test itself has opened; what go list opened does not count.
func watch(root string, pkgs []goPackage) error {
	if len(pkgs) == 0 {
		return fmt.Errorf("no packages in %s", root)
	}
	for _, pkg := range pkgs {
		for dir := pkg.Dir; len(dir) >= len(root); dir = filepath.Dir(dir) {
			if _, err := os.ReadDir(dir); err != nil {
				return fmt.Errorf("watch for changes: %w", err)
			}
		}
	}
	return nil
}
