package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Somebody who can write the database changes the audit behind the server's back. `chatsvc audit verify` finds it and says where.
func TestTamperedAuditIsFound(t *testing.T) {
	t.Parallel()
	_, baseURL := simulate(t)
	dir := t.TempDir()
	original := filepath.Join(dir, "chatsvc.db")
	p := serveOn(t, "sqlite:"+original, baseURL, governed("log:\n  level: error\n"))
	platform := p.governs(t, platformKey)
	for i := range 5 {
		platform.newTeam(t, fmt.Sprintf("team-%d", i)) // two entries each
	}
	stranger := p.governs(t, "nobodys-key")
	if _, err := stranger.teams.GetTeam(t.Context(), &chatsvcv1.GetTeamRequest{Name: "teams/team-1"}); err == nil {
		t.Fatal("a stranger is let in")
	}
	head := headOf(t, platform)
	wantChain(t, auditOf(t, platform), head)
	if head.Count != 11 {
		t.Fatalf("head %v, want 11 entries", head)
	}
	p.stop()
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(platformKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	exec := func(statements ...string) func(*testing.T, *sql.DB) {
		return func(t *testing.T, db *sql.DB) {
			t.Helper()
			for _, s := range statements {
				if _, err := db.ExecContext(t.Context(), s); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
		}
	}
	const edit = `UPDATE audit SET record = CAST(replace(CAST(record AS TEXT), 'team-2', 'team-9') AS BLOB) WHERE sequence = 5`
	tests := []struct {
		name   string
		tamper func(*testing.T, *sql.DB)
		head   bool   // it is only found with a head that was seen earlier
		where  string // that the complaint has
	}{
		{"nothing", exec(), false, ""},
		{"a record is edited", exec(edit), false, "5"},
		{"a column is edited", exec(`UPDATE audit SET team = 'team-4' WHERE sequence = 5`), false, "5"},
		{"a time is edited", exec(`UPDATE audit SET time = time + 1000000 WHERE sequence = 5`), false, "5"},
		{"a hash is edited", exec(`UPDATE audit SET hash = zeroblob(32) WHERE sequence = 5`), false, "5"},
		{"one is deleted", exec(`DELETE FROM audit WHERE sequence = 5`), false, "5"},
		{"one is deleted, and the others move up", exec(`DELETE FROM audit WHERE sequence = 5`,
			`UPDATE audit SET sequence = sequence - 1 WHERE sequence > 5`, `UPDATE audit_head SET sequence = sequence - 1`), false, "5"},
		{"two are swapped", exec(`UPDATE audit SET sequence = 100 WHERE sequence = 5`, `UPDATE audit SET sequence = 5 WHERE sequence = 7`,
			`UPDATE audit SET sequence = 7 WHERE sequence = 100`), false, "5"},
		{"the last one is deleted", exec(`DELETE FROM audit WHERE sequence = 11`), false, "11"},
		{"the tail is cut, with the head", exec(`DELETE FROM audit WHERE sequence > 8`,
			`UPDATE audit_head SET sequence = 8, hash = (SELECT hash FROM audit WHERE sequence = 8)`), true, "entries 9 to 11"},
		{"the rest is computed again", func(t *testing.T, db *sql.DB) {
			exec(edit)(t, db)
			computeAgain(t, db)
		}, true, "11"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "chatsvc.db")
			content, err := os.ReadFile(original)
			if err == nil {
				err = os.WriteFile(path, content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			tt.tamper(t, db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			p := serveOn(t, "sqlite:"+path, baseURL, governed("log:\n  level: error\n"))
			verify := func(args ...string) (found bool, said string) {
				code, out, errs := command(t, append([]string{"audit", "verify", "--address", p.admin, "--key-file", keyFile}, args...)...)
				if code != 0 && code != exitTampered {
					t.Errorf("code %d: %s%s", code, out, errs)
				}
				return code == exitTampered, out + errs
			}
			found, said := verify()
			if want := tt.where != "" && !tt.head; found != want {
				t.Errorf("without a head: found %t, want %t\n%s", found, want, said)
			}
			foundWithHead, saidWithHead := verify("--head", head.String())
			if want := tt.where != ""; foundWithHead != want {
				t.Errorf("with a head: found %t, want %t\n%s", foundWithHead, want, saidWithHead)
			}
			if tt.head {
				said = saidWithHead
			}
			if !strings.Contains(said, tt.where) {
				t.Errorf("it does not say where (%s):\n%s", tt.where, said)
			}
			t.Log(strings.TrimSpace(said))
		})
	}
}

// computeAgain gives every entry the hash that it should have, and the audit the head: a forger who knows how it is done.
func computeAgain(t *testing.T, db *sql.DB) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT record FROM audit ORDER BY sequence`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var records [][]byte
	for rows.Next() {
		var record []byte
		if err := rows.Scan(&record); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	var last tenant.Digest
	for i, record := range records {
		last = tenant.ChainHash(last, record)
		if _, err := db.ExecContext(t.Context(), `UPDATE audit SET hash = ? WHERE sequence = ?`, last[:], i+1); err != nil {
			t.Fatal(err)
		}
	}
	_, err = db.ExecContext(t.Context(), `UPDATE audit SET team = json_extract(CAST(record AS TEXT), '$.team') WHERE team IS NOT NULL`)
	if err == nil {
		_, err = db.ExecContext(t.Context(), `UPDATE audit_head SET hash = ?`, last[:])
	}
	if err != nil {
		t.Fatal(err)
	}
}
