-- Aborted, cut and whole messages in turn, on many connections.
dofile(lib)
for round = 1, 20 do
    conn = connect()
    for _, last in ipairs({"envfrom", "envrcpt", "data", "header", "eoh", "body"}) do
        play(conn, last == "envfrom" and "connect" or "envfrom", last)
        expect(last, conn, SMFIR_CONTINUE)
        must("abort", mt.abort(conn))
    end
    play(conn, "envfrom", "eom")
    expect("eom", conn, SMFIR_CONTINUE)
    mt.disconnect(conn, round % 2 == 0)
end
mt.echo("done")
