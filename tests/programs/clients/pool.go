// Sends requests by net/http from several goroutines, and prints the answers.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

func main() {
	url := os.Args[1]
	clients, _ := strconv.Atoi(os.Args[2])
	each, _ := strconv.Atoi(os.Args[3])
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, MaxConnsPerHost: clients}}
	answers := make(chan string, clients*each)
	var group sync.WaitGroup
	for number := range clients {
		group.Add(1)
		go func() {
			defer group.Done()
			for place := range each {
				answers <- ask(client, url, number*each+place)
			}
		}()
	}
	group.Wait()
	close(answers)
	for answer := range answers {
		fmt.Print(answer)
	}
}

func ask(client *http.Client, url string, number int) string {
	name := strconv.Itoa(number)
	body := strings.Repeat(name, number%7*3000)
	method, reader := "GET", io.Reader(nil)
	switch number % 3 {
	case 1:
		method, reader = "POST", strings.NewReader(body)
	case 2:
		// Of a type whose length is not known, so that it is sent in chunks.
		method, reader = "POST", io.MultiReader(strings.NewReader(body))
	}
	request, err := http.NewRequest(method, url+"?"+name, reader)
	check(err)
	response, err := client.Do(request)
	check(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != 200 {
		check(fmt.Errorf("%s: %s", name, response.Status))
	}
	return string(answer)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
