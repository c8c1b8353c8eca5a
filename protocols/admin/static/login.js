// The login form, answered on the page itself. Without JavaScript the form is posted as any other.
const form = document.getElementById("login");
const token = document.getElementById("token");
const said = document.getElementById("said");

async function refusal(answer) {
  if (answer.status === 401) return "That is not the token.";
  try {
    return String((await answer.json()).error.message).slice(0, 300);
  } catch {
    return `The gateway answered ${answer.status}.`;
  }
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  said.textContent = "";
  try {
    const answer = await fetch("/login", { method: "POST", body: new URLSearchParams({ token: token.value }) });
    if (answer.ok) return void location.replace("/");
    said.textContent = await refusal(answer);
  } catch {
    said.textContent = "The gateway cannot be reached.";
  }
  token.select();
});
