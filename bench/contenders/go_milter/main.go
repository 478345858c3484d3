// The filter on go-milter (d--j): go-milter SOCKET WORKLOAD.
package main

import (
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/d--j/go-milter"
)

type filter struct {
	milter.NoOpMilter
	workload string
	seen     int
}

func (f *filter) Connect(host, family string, port uint16, addr string, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(host)
	return milter.RespContinue, nil
}

func (f *filter) Helo(name string, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(name)
	if f.workload == "reject" {
		return milter.RespReject, nil
	}
	return milter.RespContinue, nil
}

func (f *filter) MailFrom(from, esmtpArgs string, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(from)
	return milter.RespContinue, nil
}

func (f *filter) RcptTo(rcptTo, esmtpArgs string, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(rcptTo)
	return milter.RespContinue, nil
}

func (f *filter) Data(m milter.Modifier) (*milter.Response, error) {
	return milter.RespContinue, nil
}

func (f *filter) Header(name, value string, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(name) + len(value)
	return milter.RespContinue, nil
}

func (f *filter) Headers(m milter.Modifier) (*milter.Response, error) {
	return milter.RespContinue, nil
}

func (f *filter) BodyChunk(chunk []byte, m milter.Modifier) (*milter.Response, error) {
	f.seen += len(chunk)
	return milter.RespContinue, nil
}

func (f *filter) Unknown(cmd string, m milter.Modifier) (*milter.Response, error) {
	return milter.RespContinue, nil
}

func (f *filter) EndOfMessage(m milter.Modifier) (*milter.Response, error) {
	if f.workload == "block" {
		time.Sleep(20 * time.Millisecond)
	}
	id := m.Get("i")
	if id == "" {
		id = "-"
	}
	if err := m.AddHeader("X-Filter", id); err != nil {
		return nil, err
	}
	return milter.RespContinue, nil
}

func (f *filter) Abort(m milter.Modifier) error { return nil }

func (f *filter) Cleanup(m milter.Modifier) {}

// listen opens "unix:/path" or "inet:port@host".
func listen(specification string) (net.Listener, error) {
	kind, where, _ := strings.Cut(specification, ":")
	if kind == "unix" {
		return net.Listen("unix", where)
	}
	port, host, _ := strings.Cut(where, "@")
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

func main() {
	workload := os.Args[2]
	listener, err := listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var protocol milter.OptProtocol
	if workload == "noreply" {
		protocol = milter.OptNoReplies
	}
	server := milter.NewServer(
		milter.WithMilter(func() milter.Milter { return &filter{workload: workload} }),
		milter.WithAction(milter.OptAddHeader),
		milter.WithProtocol(protocol),
	)
	log.Fatal(server.Serve(listener))
}
