# ruff: noqa: E501 - HTML and JavaScript, whose lines are theirs
"""The blind sheet's page: one file without a request to anywhere; `sheet` fills it in."""

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Answers to rate</title>
<style>
:root { color-scheme: light dark; --line: #8886; }
body { margin: 0 auto; max-width: 1080px; padding: 20px; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
section { border-top: 1px solid var(--line); padding: 10px 0 18px; }
h2 { font-size: 16px; margin: 0; } h3 { font-size: 15px; margin: 0; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; margin-top: 10px; }
.answers > div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.marks { margin-top: 8px; } .marks label { margin-right: 14px; }
footer { position: sticky; bottom: 0; background: Canvas; border-top: 1px solid var(--line); padding: 10px 0; }
</style>
</head>
<body>
<h1>Answers to rate</h1>
<p>Rate each answer from 1 (useless) to 5 (as good as can be). What stands under which letter changes from question to question. Nothing leaves this page until you save the ratings; leave open what you cannot judge.</p>
<main>
{{items}}
</main>
<footer><label>Your name or initials <input id="rater" required></label> <button id="save">Save ratings</button> <span id="state"></span></footer>
<script>
const sheet = "{{sheet}}", key = "ratings-" + sheet;
const marked = () => [...document.querySelectorAll("input[type=radio]:checked")];
const total = new Set([...document.querySelectorAll("input[type=radio]")].map(input => input.name)).size;
const show = () => { document.getElementById("state").textContent = marked().length + " of " + total + " rated"; };
const keep = () => { try { localStorage.setItem(key, JSON.stringify(marked().map(i => [i.name, i.value]))); } catch (error) { } show(); };
try {
  for (const [name, value] of JSON.parse(localStorage.getItem(key) || "[]"))
    for (const input of document.getElementsByName(name)) input.checked = input.value === value;
} catch (error) { }
document.querySelector("main").addEventListener("change", keep);
show();
const cell = text => '"' + text.replaceAll('"', '""') + '"';
document.getElementById("save").addEventListener("click", () => {
  const rater = document.getElementById("rater");
  if (!rater.reportValidity()) return;
  const rows = marked().map(input => {
    const at = input.name.lastIndexOf("|");
    return [sheet, input.name.slice(0, at), input.name.slice(at + 1), input.value, rater.value.trim()].map(cell).join(",");
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["sheet,item,answer,rating,rater\r\n" + rows.join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = "ratings-" + sheet + ".csv";
  link.click();
});
</script>
</body>
</html>
"""
