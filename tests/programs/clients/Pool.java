import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Sends requests by java.net.http from several threads, and prints the answers. */
public class Pool {
    static HttpClient client;

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        int clients = Integer.parseInt(arguments[1]);
        int each = Integer.parseInt(arguments[2]);
        // By default it asks for HTTP/2 by an upgrade in each request on a new connection.
        client = HttpClient.newHttpClient();
        var pool = Executors.newFixedThreadPool(clients);
        var answers = new ArrayList<Future<String>>();
        for (int thread = 0; thread < clients; thread++) {
            int first = thread * each;
            answers.add(pool.submit(() -> {
                var said = new StringBuilder();
                for (int number = first; number < first + each; number++) {
                    said.append(ask(url, number));
                }
                return said.toString();
            }));
        }
        for (var answer : answers) {
            System.out.print(answer.get());
        }
        pool.shutdown();
    }

    static String ask(String url, int number) throws Exception {
        String body = String.valueOf(number).repeat(number % 7 * 3000);
        var request = HttpRequest.newBuilder(URI.create(url + "?" + number));
        if (number % 3 == 1) {
            request.POST(HttpRequest.BodyPublishers.ofString(body));
        } else if (number % 3 == 2) {
            // Its length is not known, so that it is sent in chunks.
            request.POST(HttpRequest.BodyPublishers.ofInputStream(
                    () -> new ByteArrayInputStream(body.getBytes())));
        }
        var response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException(number + ": " + response.statusCode());
        }
        return response.body();
    }
}
