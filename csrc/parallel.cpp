#include "parallel.hpp"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace gdui {
namespace {

// Threads that come late find no chunk left: `body`, which lies on the caller's stack, is touched by none of them.
class Job {
public:
  Job(std::int64_t chunks, Task task, const void *body) : chunks_(chunks), left_(chunks), task_(task), body_(body) {}

  void work() {
    for (std::int64_t chunk = next_++; chunk < chunks_; chunk = next_++) {
      try {
        if (!failed_)
          task_(body_, chunk);
      } catch (...) {
        std::lock_guard<std::mutex> lock(guard_);
        if (!failed_.exchange(true))
          failure_ = std::current_exception();
      }
      if (--left_ == 0) {
        std::lock_guard<std::mutex> lock(guard_);
        whole_.notify_all();
      }
    }
  }

  void wait() {
    // What is still under way is a chunk or less: to sleep and be woken takes longer than most.
    for (int i = 0; i < kPatience && left_ > 0; ++i)
      std::this_thread::yield();
    std::unique_lock<std::mutex> lock(guard_);
    whole_.wait(lock, [this] { return left_ == 0; });
    if (failure_)
      std::rethrow_exception(failure_);
  }

private:
  static constexpr int kPatience = 100;
  const std::int64_t chunks_;
  std::atomic<std::int64_t> next_{0}, left_;
  const Task task_;
  const void *const body_;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
  std::mutex guard_;
  std::condition_variable whole_;
};

class Pool {
public:
  void offer(const std::shared_ptr<Job> &job, std::int64_t wanted) {
    const std::int64_t helpers = std::min(wanted, cores_);
    {
      std::lock_guard<std::mutex> lock(guard_);
      for (; threads_ < helpers; ++threads_) {
        try {
          std::thread([this] { serve(); }).detach();
        } catch (const std::system_error &) {
          break; // no more threads to be had: those we have do the work
        }
      }
      jobs_.insert(jobs_.end(), static_cast<std::size_t>(std::min(helpers, threads_)), job);
    }
    helpers == 1 ? wanted_.notify_one() : wanted_.notify_all();
  }

  void withdraw(const std::shared_ptr<Job> &job) {
    std::lock_guard<std::mutex> lock(guard_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
  }

private:
  void serve() {
    std::unique_lock<std::mutex> lock(guard_);
    for (;;) {
      wanted_.wait(lock, [this] { return !jobs_.empty(); });
      const std::shared_ptr<Job> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job->work();
      lock.lock();
    }
  }

  const std::int64_t cores_ = std::max<std::int64_t>(1, std::thread::hardware_concurrency());
  std::int64_t threads_ = 0;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::mutex guard_;
  std::condition_variable wanted_;
};

// Never destroyed, for its threads outlive main. A forked child has none of them and begins anew.
Pool *pool = nullptr;

Pool &the_pool() {
  static const bool begun = [] {
    pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
    return true;
  }();
  (void)begun;
  return *pool;
}

} // namespace

void share(std::int64_t chunks, std::int64_t helpers, Task task, const void *body) {
  if (helpers < 1) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
      task(body, chunk);
    return;
  }
  const auto job = std::make_shared<Job>(chunks, task, body);
  Pool &helping = the_pool();
  helping.offer(job, helpers);
  job->work();
  helping.withdraw(job);
  job->wait();
}

} // namespace gdui
