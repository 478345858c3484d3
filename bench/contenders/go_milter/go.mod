module go-milter-contender

go 1.24.0

require github.com/d--j/go-milter v0.10.0

require (
	github.com/emersion/go-message v0.18.2 // indirect
	golang.org/x/text v0.24.0 // indirect
)
