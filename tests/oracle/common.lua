-- What the other scripts share; loaded by each with dofile(lib). Run by OpenDKIM's miltertest, which
-- plays the mail server. Globals given with -D: socket, lib, and what a script names at its top.

-- fail(text): end the script. miltertest itself does not print what error() is given.
function fail(text)
    io.stderr:write(text .. "\n")
    error(text)
end

-- must(what, result): a function of miltertest's returns nil for success, else a text.
function must(what, result)
    if result ~= nil then
        fail(what .. ": " .. tostring(result))
    end
end

-- expect(what, conn, reply): the last reply of the filter was this one.
function expect(what, conn, reply)
    local got = mt.getreply(conn)
    if got ~= reply then
        fail(what .. ": reply " .. string.char(got) .. ", expected " .. string.char(reply))
    end
end

-- check(what, good): a condition holds.
function check(what, good)
    if not good then
        fail(what)
    end
end

-- connect(actions, steps): connect and negotiate; nil offers everything that libmilter knows.
function connect(actions, steps)
    local conn = mt.connect(socket, 300, 0.1)
    if conn == nil then
        fail("no connection to " .. socket)
    end
    must("negotiate", mt.negotiate(conn, nil, actions, steps))
    return conn
end

-- The steps of a message in their order, each a function that plays it.
steps = {
    {"connect", function(conn) return mt.conninfo(conn, "client.example.org", "192.0.2.1") end},
    {"hello", function(conn) return mt.helo(conn, "client.example.org") end},
    {"envfrom", function(conn)
        must("macro", mt.macro(conn, SMFIC_MAIL, "i", "4ABC", "{auth_authen}", "alice"))
        return mt.mailfrom(conn, "<alice@example.org>", "SIZE=100")
    end},
    {"envrcpt", function(conn) return mt.rcptto(conn, "<bob@example.com>") end},
    {"data", function(conn) return mt.data(conn) end},
    {"header", function(conn) return mt.header(conn, "Subject", "Lunch") end},
    {"eoh", function(conn) return mt.eoh(conn) end},
    {"body", function(conn) return mt.bodystring(conn, "Hello\r\n") end},
    {"eom", function(conn) return mt.eom(conn) end},
}

-- play(conn, from, to): play the steps from one to another; all but the last must be continued.
function play(conn, from, to)
    local playing = false
    for _, step in ipairs(steps) do
        if step[1] == from then
            playing = true
        end
        if playing then
            must(step[1], step[2](conn))
            if step[1] == to then
                return
            end
            expect(step[1], conn, SMFIR_CONTINUE)
        end
    end
    fail("no step " .. to)
end
