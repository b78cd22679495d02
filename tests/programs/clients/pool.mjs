// Sends requests by node:http, or by fetch, on several connections, and prints the answers.
import http from "node:http";

const [kind, url, clients, each] = [process.argv[2], process.argv[3], Number(process.argv[4]), Number(process.argv[5])];
const agent = new http.Agent({ keepAlive: true, maxSockets: clients });

function byHttp(number, body) {
    return new Promise((resolve, reject) => {
        const headers = number % 3 === 1 ? { "Content-Length": body.length } : {};
        const method = body === null ? "GET" : "POST";
        const request = http.request(`${url}?${number}`, { agent, method, headers }, (response) => {
            let answer = "";
            response.on("data", (data) => (answer += data));
            response.on("end", () => (response.statusCode === 200 ? resolve(answer) : reject(response.statusCode)));
            response.on("error", reject);
        });
        request.on("error", reject);
        if (body) request.write(body);
        request.end();
    });
}

async function byFetch(number, body) {
    const options = body === null ? {} : { method: "POST", body };
    if (number % 3 === 2) Object.assign(options, { body: new Blob([body]).stream(), duplex: "half" });
    const response = await fetch(`${url}?${number}`, options);
    if (response.status !== 200) throw new Error(String(response.status));
    return response.text();
}

async function client(first) {
    let answers = "";
    for (let number = first; number < first + each; number++) {
        const body = number % 3 === 0 ? null : String(number).repeat((number % 7) * 3000);
        answers += await (kind === "http" ? byHttp : byFetch)(number, body);
    }
    return answers;
}

const starts = Array.from({ length: clients }, (_, number) => client(number * each));
process.stdout.write((await Promise.all(starts)).join(""));
agent.destroy();
