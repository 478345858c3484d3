-- A filter that gives one verdict at one step. Globals: step, reply (the letter on the wire), text
-- (the SMTP reply's text, or not defined).
dofile(lib)
conn = connect()
play(conn, "connect", step)
expect(step, conn, string.byte(reply))
if text ~= nil then
    check("text", mt.eom_check(conn, MT_SMTPREPLY, "550", "5.7.1", text))
end
mt.disconnect(conn)
-- Nothing of that verdict is left for the next connection.
conn = connect()
play(conn, "connect", "connect")
mt.disconnect(conn)
mt.echo("done")
