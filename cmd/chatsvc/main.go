// Command chatsvc is the chat service, its terminal client and its OpenAI simulator.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the build.
var version = "dev"

func main() {
	os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio is where a command reads and writes, so that a test can run the whole program.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// cli is the commands.
type cli struct {
	Serve     serveCommand     `cmd:"" help:"Run the service."`
	Chat      chatCommand      `cmd:"" help:"Chat with a running service in the terminal."`
	Simulate  simulateCommand  `cmd:"" help:"Run the OpenAI simulator on its own, for tests of your own services."`
	Bootstrap bootstrapCommand `cmd:"" help:"Make the first admin's key, in the database."`
	Teams     teamsCommand     `cmd:"" help:"Manage teams."`
	Clients   clientsCommand   `cmd:"" help:"Manage the clients of a team: its services that call."`
	Keys      keysCommand      `cmd:"" help:"Make, rotate and revoke the keys of clients."`
	Apply     applyCommand     `cmd:"" help:"Make teams and clients what a file says, and show the difference first."`
	Whoami    whoamiCommand    `cmd:"" help:"Say who a key or a certificate makes you, and what you may do."`
	Audit     auditCommand     `cmd:"" help:"See who changed what and who was denied, and verify that nothing of it is missing."`
	Migrate   migrateCommand   `cmd:"" help:"Bring the database's schema up to date, or say how it stands."`
	Config    configCommand    `cmd:"" help:"Look at the configuration."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
}

// run parses args, runs the command until it ends or the process gets SIGINT or SIGTERM, and returns the exit code:
// 0 for success, 1 for failure, 2 for a usage that makes no sense, or what an *exitError says.
func run(ctx context.Context, args []string, std stdio) (code int) {
	var commands cli
	exited := false
	parser, err := kong.New(&commands,
		kong.Name("chatsvc"),
		kong.Description("Chat with OpenAI's models over gRPC, with conversations kept on the server."),
		kong.Writers(std.out, std.err),
		kong.Exit(func(c int) { exited, code = true, c }), // --help
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Bind(std),
	)
	if err != nil {
		fmt.Fprintln(std.err, "chatsvc:", err)
		return 2
	}
	command, err := parser.Parse(args)
	if exited {
		return code
	}
	if err != nil {
		fmt.Fprintf(std.err, "chatsvc: %v (chatsvc --help lists the commands)\n", err)
		return 2
	}
	signals := []os.Signal{syscall.SIGTERM, os.Interrupt}
	if command.Selected().Name == "chat" {
		signals = signals[:1] // there, Ctrl-C cancels a turn and not the program
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the process the hard way
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(); err != nil {
		fmt.Fprintln(std.err, "chatsvc:", err)
		if other, ok := errors.AsType[*exitError](err); ok {
			return other.code
		}
		return 1
	}
	return 0
}

// exitError is an error with an exit code of its own, for scripts to tell it from a failure.
type exitError struct {
	error
	code int
}

// versionCommand prints the version.
type versionCommand struct{}

// Run prints the version.
func (versionCommand) Run(std stdio) error {
	_, err := fmt.Fprintln(std.out, "chatsvc", version)
	return err
}
